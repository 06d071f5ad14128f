package redisstream

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// Raise raises the delivery counts of suspects of one stream, just before their handlers start, and
// returns those that are no longer pending with this consumer. Raising again, after an answer that was
// lost, changes nothing.
func (c *Client) Raise(ctx context.Context, consumer Consumer, stream string, suspects []Suspect) (gone []Ref, err error) {
	return c.ofSuspects(ctx, suspectScript, consumer, stream, suspects)
}

// Lower puts the delivery counts of suspects of one stream back that were raised. One that was not, or is
// not pending with this consumer, stays as it is.
func (c *Client) Lower(ctx context.Context, consumer Consumer, stream string, suspects []Suspect) error {
	_, err := c.ofSuspects(ctx, lowerScript, consumer, stream, suspects)
	return err
}

// ofSuspects runs a script over suspects of one stream and of its lane.
func (c *Client) ofSuspects(
	ctx context.Context, script *redis.Script, consumer Consumer, stream string, suspects []Suspect,
) (answered []Ref, err error) {
	for _, lane := range []bool{false, true} {
		args := []any{consumer.Group, consumer.Name}
		for _, s := range suspects {
			if s.Lane == lane {
				args = append(args, s.ID.String(), s.Count)
			}
		}
		refs, err := c.refsOf(ctx, script, Ref{Stream: stream, Lane: lane}, consumer.Group, args, 2)
		answered = append(answered, refs...)
		if err != nil {
			return answered, err
		}
	}
	return answered, nil
}

// refsAtOnce is the most deliveries of which a script is told that looks at each of them: the server
// answers nobody else meanwhile, and a beat that comes after a stall renews all that its consumer holds.
const refsAtOnce = 200

// refsOf runs a script that answers IDs of a stream or of its lane, for some deliveries at a time. Its
// arguments are group and consumer, and then as many for each delivery as each says.
func (c *Client) refsOf(
	ctx context.Context, script *redis.Script, of Ref, group string, args []any, each int,
) (refs []Ref, err error) {
	for some := range slices.Chunk(args[2:], each*refsAtOnce) {
		keys := []string{c.sourceKey(of, group)}
		ids, err := c.batches.run(ctx, script, keys, slices.Concat(args[:2], some)...).StringSlice()
		if err != nil {
			return refs, err
		}
		for _, text := range ids {
			if of.ID, err = ParseID(text); err != nil {
				return refs, err
			}
			refs = append(refs, of)
		}
	}
	return refs, nil
}

// Lose settles a delivery whose entry is gone and counts it as lost.
func (c *Client) Lose(ctx context.Context, consumer Consumer, ref Ref) error {
	keys := []string{c.sourceKey(ref, consumer.Group), c.metaKey(ref.Stream)}
	return loseScript.Run(ctx, c.groups, keys, consumer.Group, consumer.Name, ref.ID.String()).Err()
}

// strangerScan is the most pending entries of a stream or a lane that one call of Strangers looks
// at: about 0.6 ms of the server.
const strangerScan = 500

// strangerScans remembers up to where the pending entries of each group have been looked at.
type strangerScans struct {
	mu   sync.Mutex
	from map[groupOf][2]string // in the stream and in the lane
}

// groupOf names the group of one stream.
type groupOf struct{ stream, group string }

func (s *strangerScans) begin(of groupOf) (stream, lane string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if from, ok := s.from[of]; ok {
		return from[0], from[1]
	}
	return "-", "-"
}

// note keeps where the next call is to begin. At the beginning of both, which is so wherever there
// are no strangers, nothing is kept.
func (s *strangerScans) note(of groupOf, stream, lane string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if stream == "-" && lane == "-" {
		delete(s.from, of)
		return
	}
	if s.from == nil {
		s.from = map[groupOf][2]string{}
	}
	s.from[of] = [2]string{stream, lane}
}

// Strangers takes some deliveries that consumers which do not beat, other software's, have
// left pending for longer than idle. A call looks at a part of what is pending, and the next call
// goes on there.
func (c *Client) Strangers(ctx context.Context, consumer Consumer, stream string, idle time.Duration, most Most) ([]Delivered, error) {
	of := groupOf{stream, consumer.Group}
	from, laneFrom := c.strangers.begin(of)
	keys := []string{c.streamKey(stream), c.laneKey(stream, consumer.Group), c.aliveKey(stream, consumer.Group), c.metaKey(stream)}
	args := []any{
		consumer.Group, consumer.Name, idle.Milliseconds(), most.Entries, strangerScan, from, laneFrom,
		most.Bytes,
	}
	got, err := strangerScript.Run(ctx, c.groups, keys, args...).Slice()
	if err != nil {
		return nil, err
	}
	if len(got) < 2 {
		return nil, errReply
	}
	from, _ = got[0].(string)
	laneFrom, _ = got[1].(string)
	c.strangers.note(of, from, laneFrom)
	return allTakenOver(stream, got[2:])
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
		refs, err := c.refsOf(ctx, renewScript, Ref{Stream: stream, Lane: lane}, consumer.Group, args, 1)
		gone = append(gone, refs...)
		if err != nil {
			return gone, err
		}
	}
	return gone, nil
}

// Pause changes what is written about the pause of a group, if it is still what the caller saw; empty is not paused. It reports whether it
// did.
func (c *Client) Pause(ctx context.Context, stream, group, seen, text string) (bool, error) {
	n, err := pauseScript.Run(ctx, c.admin, []string{c.metaKey(stream), c.flowKey(stream, group), c.failedKey(stream, group)}, group, seen, text).Int()
	return n == 1, err
}
