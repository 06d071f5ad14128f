package redisstream

import (
	"context"
	"errors"

	"github.com/redis/go-redis/v9"
)

// LetWait settles deliveries, all of one stream, by copies that wait until a consumer comes that
// handles their types. Where the patterns of the group are not of the given version, nothing is
// done. Each delivery has its own result; the error is the reason of those that are Unknown.
func (c *Client) LetWait(
	ctx context.Context, consumer Consumer, stream string, waits []Wait, version int64,
) ([]Settled, error) {
	settled := make([]Settled, len(waits))
	var first error
	for _, lane := range []bool{false, true} {
		args := []any{consumer.Group, consumer.Name, version, flag(lane), GroupBound}
		var of []int // indexes
		for i, w := range waits {
			if w.Lane == lane {
				of = append(of, i)
				args = append(args, w.ID.String(), w.Type)
				args = append(args, w.Message.UUID, w.Message.Metadata, w.Message.Payload)
			}
		}
		if len(of) == 0 {
			continue
		}
		source := c.sourceKey(Ref{Stream: stream, Lane: lane}, consumer.Group)
		keys := []string{source, c.metaKey(stream), c.waitingKey(stream, consumer.Group)}
		n, err := waitScript.Run(ctx, c.groups, keys, args...).Int()
		if err != nil && first == nil && Classify(err) != Lost {
			first = err
		}
		for k, i := range of {
			settled[i] = settledAs(k, n, err)
		}
	}
	return settled, first
}

// WaitingTypes names up to most types of which events wait for a consumer that handles them, in
// their order: those that begin with the prefix and come behind the type after. There are no more
// where it names none: it may name fewer than there are.
func (c *Client) WaitingTypes(
	ctx context.Context, stream, group, prefix, after string, most int,
) ([]string, error) {
	from, to := "-", "+"
	if prefix != "" {
		from, to = "["+prefix, "("+successor(prefix)
	}
	if after != "" {
		from = "(" + after + "\x01" // behind all events of the type
	}
	key := []string{c.waitingKey(stream, group)}
	got, err := waitingScript.Run(ctx, c.admin, key, most, from, to).StringSlice()
	if err != nil {
		return nil, err
	}
	types := make([]string, 0, len(got)/2)
	for i := 0; i+1 < len(got); i += 2 {
		types = append(types, got[i])
	}
	return types, nil
}

// successor is the first text behind all that begin with the prefix, which ends with a character of
// a pattern: none of these is the last there is.
func successor(prefix string) string {
	last := len(prefix) - 1
	return prefix[:last] + string(prefix[last]+1)
}

// settledAs says what became of the delivery at index i of those that wait.lua was given, by its
// answer.
func settledAs(i, answer int, err error) Settled {
	switch {
	case Classify(err) == Lost:
		return LeaseLost // with its group
	case err != nil:
		return Unknown
	case answer < 0:
		return Changed
	case i < answer:
		return Done
	}
	return Full
}

// dropBatch is the most events that one script takes out of what waits.
const dropBatch = 500

// Forget takes a pattern away from what a group takes, unless a live consumer handles it.
func (c *Client) Forget(ctx context.Context, stream, group string, f Forget) (Forgotten, error) {
	args := []any{group, f.Pattern, aliveWithin.Milliseconds(), 0}
	if f.DryRun {
		args[3] = 1
	}
	for _, p := range f.Default {
		args = append(args, p)
	}
	keys := []string{c.metaKey(stream), c.aliveKey(stream, group)}
	got, err := forgetScript.Run(ctx, c.admin, keys, args...).Slice()
	if err != nil {
		return Forgotten{}, err
	}
	patterns, err := patternsFrom(got)
	if err != nil || len(got) < 4 {
		return Forgotten{}, errors.Join(err, errReply)
	}
	result, _ := got[2].(int64)
	consumer, _ := got[3].(string)
	return Forgotten{Result: ForgetResult(result), Consumer: consumer, Patterns: patterns}, nil
}

// DropWaiting takes the events of a type out of what waits for a consumer, in steps, and counts
// them as unhandled. It returns how many that were, and Changed where the patterns of the group are
// not of the given version by then.
func (c *Client) DropWaiting(
	ctx context.Context, stream, group, eventType string, version int64,
) (dropped int, s Settled, err error) {
	keys := []string{c.waitingKey(stream, group), c.metaKey(stream)}
	args := []any{group, version, eventType, dropBatch, UnhandledTypes}
	for {
		n, err := dropScript.Run(ctx, c.admin, keys, args...).Int()
		if err != nil {
			return dropped, Unknown, err
		}
		if n < 0 {
			return dropped, Changed, nil
		}
		dropped += n
		if n < dropBatch {
			return dropped, Done, nil
		}
	}
}

// CountWaiting is how many events of these types wait for a consumer.
func (c *Client) CountWaiting(
	ctx context.Context, stream, group string, types []string,
) (int, error) {
	counts := make([]*redis.IntCmd, len(types))
	_, err := c.admin.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, t := range types {
			counts[i] = p.ZLexCount(ctx, c.waitingKey(stream, group), "["+t+"\x00", "("+t+"\x01")
		}
		return nil
	})
	n := int64(0)
	for _, count := range counts {
		n += count.Val()
	}
	return int(n), err
}
