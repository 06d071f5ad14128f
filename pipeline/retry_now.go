package pipeline

import "context"

// Deferred is how many failed deliveries of a group wait for their next attempt, or were put off,
// at a stream: what RetryNow would move. GroupHealth.Deferred also counts events that wait for a
// consumer which handles their type. ErrUnknownGroup where there is no such group.
func (b *Bus) Deferred(ctx context.Context, stream, group string) (int, error) {
	if _, err := b.group(ctx, stream, group); err != nil {
		return 0, err
	}
	n, err := b.log.Deferred(ctx, stream, group)
	return n, b.redisError("count deferred deliveries of group "+group+" of", stream, err)
}

// RetryNow has a group try its failed deliveries of a stream again at once, instead of when their
// back-off ends: say so when the reason has been mended. Each keeps its number of attempts. It
// moves what is deferred when it is called, those due last first, and returns how many that were;
// with an error it is how many were moved before it. ErrUnknownGroup where there is no such group,
// ErrBackPressure where the lane of the group is full: the rest comes when it is due.
func (b *Bus) RetryNow(ctx context.Context, stream, group string) (int, error) {
	if _, err := b.group(ctx, stream, group); err != nil {
		return 0, err
	}
	op := "retry deferred deliveries of group " + group + " of"
	moved, full, err := b.log.RetryNow(ctx, stream, group)
	if err != nil {
		return moved, b.redisError(op, stream, err)
	}
	if full {
		return moved, &RedisError{Op: op, Key: stream, Kind: ErrBackPressure, Err: errLaneFull,
			Hint: "say it again when the group has worked off its lane; what is left comes when it is due"}
	}
	return moved, nil
}
