package redisstream

import (
	"context"
	"time"
)

// Suspect raises the delivery count of a delivery, just before its handler starts, and returns the count before; 0 when it is no longer
// pending with this consumer. An entry that was read once has the count 1.
func (c *Client) Suspect(ctx context.Context, consumer Consumer, ref Ref) (int, error) {
	return suspectScript.Run(ctx, c.admin, []string{c.sourceKey(ref, consumer.Group)}, consumer.Group, consumer.Name, ref.ID.String()).Int()
}

// Lose settles a delivery whose entry is gone and counts it as lost.
func (c *Client) Lose(ctx context.Context, consumer Consumer, ref Ref) error {
	keys := []string{c.sourceKey(ref, consumer.Group), c.metaKey(ref.Stream)}
	return loseScript.Run(ctx, c.admin, keys, consumer.Group, consumer.Name, ref.ID.String()).Err()
}

// Strangers takes up to 100 deliveries that consumers which do not beat, other software's, have left pending for longer than idle.
func (c *Client) Strangers(ctx context.Context, consumer Consumer, stream string, idle time.Duration) ([]Delivered, error) {
	keys := []string{c.streamKey(stream), c.laneKey(stream, consumer.Group), c.aliveKey(stream, consumer.Group), c.metaKey(stream)}
	got, err := strangerScript.Run(ctx, c.admin, keys, consumer.Group, consumer.Name, idle.Milliseconds(), takeOverBatch).Slice()
	if err != nil {
		return nil, err
	}
	return allTakenOver(stream, got)
}

// Renew makes deliveries of one stream look fresh, and returns those that are no longer pending with this consumer.
func (c *Client) Renew(ctx context.Context, consumer Consumer, stream string, refs []Ref) (gone []Ref, err error) {
	for _, lane := range []bool{false, true} {
		args := []any{consumer.Group, consumer.Name}
		for _, ref := range refs {
			if ref.Lane == lane {
				args = append(args, ref.ID.String())
			}
		}
		if len(args) == 2 {
			continue
		}
		of := Ref{Stream: stream, Lane: lane}
		ids, err := renewScript.Run(ctx, c.admin, []string{c.sourceKey(of, consumer.Group)}, args...).StringSlice()
		if err != nil {
			return gone, err
		}
		for _, text := range ids {
			if of.ID, err = ParseID(text); err != nil {
				return gone, err
			}
			gone = append(gone, of)
		}
	}
	return gone, nil
}

// Pause changes what is written about the pause of a group, if it is still what the caller saw; empty is not paused. It reports whether it
// did.
func (c *Client) Pause(ctx context.Context, stream, group, seen, text string) (bool, error) {
	n, err := pauseScript.Run(ctx, c.admin, []string{c.metaKey(stream)}, group, seen, text).Int()
	return n == 1, err
}
