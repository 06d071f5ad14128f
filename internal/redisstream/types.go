package redisstream

import (
	"context"
)

// LetWait settles deliveries, all of one stream, by copies that wait until a consumer comes that handles
// their types. Where the patterns of the group are not of the given version, nothing is done. Each
// delivery has its own result; the error is the reason of those that are Unknown.
func (c *Client) LetWait(ctx context.Context, consumer Consumer, stream string, waits []Wait, version int64) ([]Settled, error) {
	settled := make([]Settled, len(waits))
	var first error
	for _, lane := range []bool{false, true} {
		args := []any{consumer.Group, consumer.Name, version, flag(lane), GroupBound}
		var of []int // indexes
		for i, w := range waits {
			if w.Lane == lane {
				of = append(of, i)
				args = append(args, w.ID.String(), w.Type, w.Message.UUID, w.Message.Metadata, w.Message.Payload)
			}
		}
		if len(of) == 0 {
			continue
		}
		source := c.sourceKey(Ref{Stream: stream, Lane: lane}, consumer.Group)
		keys := []string{source, c.metaKey(stream), c.waitingKey(stream, consumer.Group)}
		n, err := waitScript.Run(ctx, c.admin, keys, args...).Int()
		if err != nil && first == nil && Classify(err) != Lost {
			first = err
		}
		for k, i := range of {
			settled[i] = settledAs(k, n, err)
		}
	}
	return settled, first
}

// settledAs says what became of the delivery at index i of those that wait.lua was given, by its answer.
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
