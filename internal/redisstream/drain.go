package redisstream

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Drain appends messages that were spooled, in order, all or none, as the append with the sequence w.Seq of the spool w.Name, if the last one before it
// was known (0: none). It reports whether it did, which append was the last one, and the ID of the first message; the others follow it.
func (c *Client) Drain(ctx context.Context, stream string, w Writer, known uint64, messages []Message) (done bool, last uint64, first ID, err error) {
	if err := c.register(ctx, c.targets.of(c, stream)); err != nil {
		return false, 0, ID{}, err
	}
	args := make([]any, 0, 4+3*len(messages))
	args = append(args, w.Name, strconv.FormatUint(known, 10), strconv.FormatUint(w.Seq, 10), c.maxLen)
	for _, m := range messages {
		args = append(args, m.UUID, m.Metadata, m.Payload)
	}
	keys := []string{c.streamKey(stream), c.writersKey(stream), c.metaKey(stream)}
	reply, err := drainScript.Run(ctx, c.appends, keys, args...).Slice()
	if err != nil {
		return false, 0, ID{}, err
	}
	text, _ := reply[1].(string)
	if last, err = strconv.ParseUint(text, 10, 64); err != nil {
		return false, 0, ID{}, fmt.Errorf("drain: answer %v", reply)
	}
	if done = reply[0] == int64(1); done {
		text, _ = reply[2].(string)
		first, err = ParseID(text)
	}
	return done, last, first, err
}

// LastAppends returns the sequence of the last append of each of the writers to a stream, 0 where there is none. It asks over the connections of the
// appends: others may still lead to a master that was one.
func (c *Client) LastAppends(ctx context.Context, stream string, writers ...string) ([]uint64, error) {
	marks, err := c.appends.HMGet(ctx, c.writersKey(stream), writers...).Result()
	if err != nil {
		return nil, err
	}
	last := make([]uint64, len(writers))
	for i, mark := range marks {
		if text, ok := mark.(string); ok {
			sequence, _, _ := strings.Cut(text, " ")
			if last[i], err = strconv.ParseUint(sequence, 10, 64); err != nil {
				return nil, fmt.Errorf("mark of writer %s of %s: %w", writers[i], stream, err)
			}
		}
	}
	return last, nil
}

// Place is where an entry of a stream was.
type Place struct {
	ID   ID
	UUID string // of its message
}

// placesAtOnce is for how many entries one round trip asks.
const placesAtOnce = 200

// Holds reports for each of these entries whether the stream has it.
func (c *Client) Holds(ctx context.Context, stream string, places []Place) ([]bool, error) {
	holds := make([]bool, 0, len(places))
	for part := range slices.Chunk(places, placesAtOnce) {
		found := make([]*redis.XMessageSliceCmd, len(part))
		_, err := c.appends.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i, place := range part {
				id := place.ID.String()
				found[i] = p.XRange(ctx, c.streamKey(stream), id, id)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		for i, f := range found {
			entries := f.Val()
			holds = append(holds, len(entries) > 0 && entries[0].Values[FieldUUID] == part[i].UUID)
		}
	}
	return holds, nil
}
