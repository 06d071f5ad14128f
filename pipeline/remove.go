package pipeline

import (
	"context"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// RemoveStream destroys a stream and all that belongs to it: its events, its groups with what is pending, deferred or dead, and its
// place among the streams. It asks nothing, and there is no way back. A stream that does not exist is no error; a key that holds
// something else is ErrDenied, and stays.
//
// It is for streams that nobody uses any more: a group that still follows the stream, in whatever process, makes it anew, empty. In
// Redis it needs the right to UNLINK. Other processes that have published to the stream learn for an hour that it was removed, by one small key, and do
// not take its events for lost.
func (b *Bus) RemoveStream(ctx context.Context, stream string) error {
	if err := CheckStream(stream); err != nil {
		return invalidCall("stream", err.Error())
	}
	if b.redis != nil {
		err := b.redis.Remove(ctx, stream, b.writersPrefix())
		switch redisstream.Classify(err) {
		case redisstream.None, redisstream.Away, redisstream.Silent, redisstream.Other: // it is carried out, or may be
			b.confirmed.remove(stream)
		}
		if err != nil {
			return b.redisError("remove stream", stream, err)
		}
	}
	if b.local != nil {
		b.local.Remove(stream)
	}
	return nil
}
