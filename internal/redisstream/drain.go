package redisstream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Drain appends messages that were spooled, in order, all or none, as the append with the sequence w.Seq of the spool w.Name, if the last one before it
// was known (0: none). It reports whether it did, and which append was the last one.
func (c *Client) Drain(ctx context.Context, stream string, w Writer, known uint64, messages []Message) (done bool, last uint64, err error) {
	if err := c.register(ctx, stream); err != nil {
		return false, 0, err
	}
	args := make([]any, 0, 4+3*len(messages))
	args = append(args, w.Name, strconv.FormatUint(known, 10), strconv.FormatUint(w.Seq, 10), c.maxLen)
	for _, m := range messages {
		args = append(args, m.UUID, m.Metadata, m.Payload)
	}
	reply, err := drainScript.Run(ctx, c.appends, []string{c.streamKey(stream), c.writersKey(stream)}, args...).Slice()
	if err != nil {
		return false, 0, err
	}
	if len(reply) == 2 {
		if text, ok := reply[1].(string); ok {
			last, err = strconv.ParseUint(text, 10, 64)
			return reply[0] == int64(1), last, err
		}
	}
	return false, 0, fmt.Errorf("drain: answer %v", reply)
}

// LastAppend returns the sequence of the last append of a writer to a stream, 0 where there is none.
func (c *Client) LastAppend(ctx context.Context, stream, writer string) (uint64, error) {
	mark, err := c.admin.HGet(ctx, c.writersKey(stream), writer).Result()
	if errors.Is(err, redis.Nil) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	sequence, _, _ := strings.Cut(mark, " ")
	return strconv.ParseUint(sequence, 10, 64)
}
