package redisstream

import "context"

const (
	// retryNowBatch is the most deliveries that one script moves, and retryNowBytes about the most
	// bytes: the server answers nobody else meanwhile.
	retryNowBatch = 200
	retryNowBytes = 1 << 20
)

// Deferred is how many deliveries of a group wait for their next attempt.
func (c *Client) Deferred(ctx context.Context, stream, group string) (int, error) {
	n, err := c.admin.ZCard(ctx, c.deferredKey(stream, group)).Result()
	return int(n), err
}

// RetryNow moves the deferred deliveries of a group to its lane, in steps of which each is atomic.
// It returns how many it moved, and whether some are left since the lane is full. It moves no more
// than there were when it began: following those that fail again meanwhile might never end.
func (c *Client) RetryNow(ctx context.Context, stream, group string) (moved int, full bool, err error) {
	left, err := c.Deferred(ctx, stream, group)
	if err != nil {
		return 0, false, err
	}
	keys := []string{c.streamKey(stream), c.laneKey(stream, group), c.deferredKey(stream, group)}
	for due := "+inf"; left > 0 && !full; {
		args := []any{group, GroupBound, min(left, retryNowBatch), retryNowBytes, due}
		got, err := retryNowScript.Run(ctx, c.admin, keys, args...).Slice()
		if err != nil {
			return moved, false, err
		}
		if len(got) != 3 {
			return moved, false, errReply
		}
		n, _ := got[0].(int64)
		due, _ = got[1].(string)
		full = got[2] == int64(1)
		if n == 0 {
			break
		}
		moved, left = moved+int(n), left-int(n)
	}
	return moved, full, nil
}
