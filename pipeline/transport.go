package pipeline

import (
	"context"
	"time"

	"github.com/rishi-platform/millrace/internal/group"
	"github.com/rishi-platform/millrace/internal/redisstream"
)

// transport keeps streams and what groups have done with them. Redis (internal/redisstream.Client) and memory (internal/memstream)
// implement it; one conformance suite holds both to the same rules.
type transport interface {
	streamLog
	group.Log
	typeLog
	deadLog
	onceLog
}

// streamLog is the part of a transport that keeps and reads entries. Streams are made by their first append.
type streamLog interface {
	// Append stores the messages at the end of the stream, in order, all or none, and returns the ID of the first, the others follow it with
	// consecutive sequence numbers; and, where the log can lose what it has confirmed, the sequence of the writer's last append before. The
	// same writer and sequence again stores nothing and returns the same ID.
	Append(ctx context.Context, stream string, w redisstream.Writer, messages []redisstream.Message) (first redisstream.ID, before uint64, err error)
	// AppendOnce is Append for messages that have a key each: one whose key was appended within its window is not appended again.
	AppendOnce(ctx context.Context, stream string, w redisstream.Writer, messages []redisstream.Message, seen []redisstream.Seen) (appended []redisstream.Appended, before uint64, err error)
	// Claim remembers for what an idempotency key is used, whatever the stream, unless it is used already, and returns what it is used for.
	Claim(ctx context.Context, key, what string, window time.Duration) (used string, err error)
	// Range returns up to count entries from from to to, both included; with reverse the newest first.
	Range(ctx context.Context, stream string, from, to redisstream.ID, count int, reverse bool) ([]redisstream.Entry, error)
	// Tail waits until there are entries behind one of the given IDs or block has passed, and returns up to count of each stream.
	Tail(ctx context.Context, after map[string]redisstream.ID, count int, block time.Duration) (map[string][]redisstream.Entry, error)
	// Info describes a stream; one that does not exist is not an error.
	Info(ctx context.Context, stream string) (redisstream.StreamInfo, error)
	// Groups describes the groups of a stream.
	Groups(ctx context.Context, stream string) ([]redisstream.GroupInfo, error)
	// Describe describes streams with their groups. What is not known when ctx ends has an error.
	Describe(ctx context.Context, streams []string) []redisstream.Description
	// Streams names the streams there are, sorted.
	Streams(ctx context.Context) ([]string, error)
}

// typeLog is the part of a transport where events wait for a consumer that handles their type.
type typeLog interface {
	// Forget takes a pattern away from what a group takes, unless a live consumer handles it.
	Forget(
		ctx context.Context, stream, group string, f redisstream.Forget,
	) (redisstream.Forgotten, error)
	// DropWaiting takes the events of a type out of what waits for a consumer, and counts them as
	// unhandled. It returns how many that were, and Changed where the patterns of the group are not of the
	// given version by then.
	DropWaiting(
		ctx context.Context, stream, group, eventType string, version int64,
	) (dropped int, s redisstream.Settled, err error)
	// CountWaiting is how many events of these types wait for a consumer.
	CountWaiting(ctx context.Context, stream, group string, types []string) (int, error)
}

// deadLog is the part of a transport that operators use: what groups gave up on, what they are to be given again, and pauses.
type deadLog interface {
	// Dead returns up to count dead letters of a group from from to to, both included; with reverse the newest first.
	Dead(ctx context.Context, stream, group string, from, to redisstream.ID, count int, reverse bool) ([]redisstream.Entry, error)
	// Discard deletes dead letters and returns how many were there.
	Discard(ctx context.Context, stream, group string, ids []redisstream.ID) (int, error)
	// DeadAt returns the dead letters of a group at the given IDs, the first ones up to a number of bytes; at
	// least one, however large. It returns how many of the IDs it has looked at: a letter that is gone is
	// passed over.
	DeadAt(ctx context.Context, stream, group string, ids []redisstream.ID, bytes int) (letters []redisstream.Entry, looked int, err error)
	// Requeue moves dead letters to the lane of their group, as the given copies. Each has its own result:
	// Done, LeaseLost where it is no dead letter any more, Full, or Unknown. The error is the first reason of
	// those that are Unknown.
	Requeue(ctx context.Context, stream, group string, copies []redisstream.Copy) ([]redisstream.Settled, error)
	// Enqueue puts copies into the lane of a group until it is full. It returns how many were put there and how many were looked at: a
	// dead letter that is gone is passed over.
	Enqueue(ctx context.Context, stream, group string, copies []redisstream.Copy) (done, looked int, err error)
	// Deferred is how many deliveries of a group wait for their next attempt.
	Deferred(ctx context.Context, stream, group string) (int, error)
	// RetryNow moves the deferred deliveries of a group to its lane before they are due, until the
	// lane is full. It returns how many it moved, and whether some are left since the lane is full.
	RetryNow(ctx context.Context, stream, group string) (moved int, full bool, err error)
}

// onceLog is the part of a transport that remembers which events a group has done. A key stands for an event, see onceKey.
type onceLog interface {
	Marked(ctx context.Context, stream, group, key string) (bool, error)
	Mark(ctx context.Context, stream, group, key string, ttl time.Duration) error
}
