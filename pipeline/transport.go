package pipeline

import (
	"context"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// transport keeps streams and what groups have done with them. Redis (internal/redisstream.Client) and memory (memory.go)
// implement it; one conformance suite holds both to the same rules.
type transport interface {
	streamLog
	groupLog
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

// groupLog is the part of a transport that hands entries to the consumers of groups and settles them. Each step that
// settles is atomic and does nothing to a delivery that is no longer pending with this consumer.
type groupLog interface {
	// StreamsPerRead is how many streams one Read may name.
	StreamsPerRead() int
	// Join makes the group and its lane where they are missing, adds to what the group takes, and beats for the first time.
	// A group that is gone is made again at its frontier.
	Join(ctx context.Context, c redisstream.Consumer, j redisstream.Join) (redisstream.Joined, error)
	// Read hands out up to count entries of each stream and of its lane that no consumer of the group has got yet; it waits up
	// to block for the first.
	Read(ctx context.Context, c redisstream.Consumer, streams []string, count int, block time.Duration) ([]redisstream.Delivered, error)
	// ReadInTurn hands out up to count entries in all, of the lanes and streams in their order. It does
	// not wait.
	ReadInTurn(ctx context.Context, c redisstream.Consumer, streams []string, count int) ([]redisstream.Delivered, error)
	// Held names up to count deliveries of a stream, and as many of its lane, that are pending with this
	// consumer, those behind the given IDs of the two, and says how often each was delivered: a reply that
	// was lost leaves entries with a consumer that does not know of them.
	Held(ctx context.Context, c redisstream.Consumer, stream string, behind, laneBehind redisstream.ID, count int) ([]redisstream.Delivered, error)
	// Load returns the entries of deliveries.
	Load(ctx context.Context, group string, refs []redisstream.Ref) ([]redisstream.Delivered, error)
	// Ack settles deliveries as handled. It returns those that are settled, also because their group is gone, and those that
	// may not be, with the first reason.
	Ack(ctx context.Context, c redisstream.Consumer, refs []redisstream.Ref) (settled, left []redisstream.Ref, err error)
	// Retry settles each delivery, all of one stream, by a copy that arrives later. Each is a step of its own and has its
	// own result; the error is the first reason of those that are Unknown.
	Retry(ctx context.Context, c redisstream.Consumer, stream string, rs []redisstream.Retry) ([]redisstream.Settled, error)
	// Bury gives deliveries up, all of one stream: they go to the dead letters. Results are as those of Retry; dropped is how many
	// older dead letters had to go by the bounds.
	Bury(ctx context.Context, c redisstream.Consumer, stream string, bounds redisstream.Bounds, burials []redisstream.Burial) (settled []redisstream.Settled, dropped int, err error)
	// Lose settles a delivery whose entry is gone and counts it as lost.
	Lose(ctx context.Context, c redisstream.Consumer, ref redisstream.Ref) error
	// Skip settles deliveries, all of one stream, whose types are outside of the group's patterns of this version, and counts
	// them by type. With patterns of another version it does nothing and says Changed; those no longer pending with this
	// consumer are passed over.
	Skip(ctx context.Context, c redisstream.Consumer, stream string, skips []redisstream.Skip, version int64) (redisstream.Settled, error)
	// Beat tells the group of one stream that this consumer lives, moves what is due and was forgotten from the
	// deferred set to the lane, and reports on the group.
	Beat(ctx context.Context, c redisstream.Consumer, stream string, say redisstream.Say) (redisstream.Beat, error)
	// Promote moves what is due from the deferred set to the lane, some at a time.
	Promote(ctx context.Context, stream, group string) (redisstream.Promoted, error)
	// Flow adds this consumer's share to the record of the group's failures, if there is one (see
	// breaker.go), and returns its sums, if they are asked for.
	Flow(ctx context.Context, c redisstream.Consumer, stream string, s redisstream.Share) (redisstream.Flow, error)
	// TakeOver moves some deliveries of the peer to this consumer if the peer's beat is still the
	// given one, and forgets the peer when it holds none any more.
	TakeOver(ctx context.Context, c redisstream.Consumer, stream string, p redisstream.Peer, most redisstream.Most) ([]redisstream.Delivered, error)
	// Raise raises the delivery counts of suspects of one stream, just before their handlers start, and
	// returns those that are no longer pending with this consumer. Raising again changes nothing.
	Raise(ctx context.Context, c redisstream.Consumer, stream string, suspects []redisstream.Suspect) (gone []redisstream.Ref, err error)
	// Lower puts the delivery counts of suspects of one stream back that were raised and have no result
	// when their consumer leaves. One that was not raised, or is not pending with this consumer, stays as
	// it is.
	Lower(ctx context.Context, c redisstream.Consumer, stream string, suspects []redisstream.Suspect) error
	// Strangers takes some deliveries that consumers without a beat have left pending for longer
	// than idle.
	Strangers(ctx context.Context, c redisstream.Consumer, stream string, idle time.Duration, most redisstream.Most) ([]redisstream.Delivered, error)
	// Renew makes deliveries of one stream look fresh to other software, and returns those no longer pending with this consumer.
	Renew(ctx context.Context, c redisstream.Consumer, stream string, refs []redisstream.Ref) (gone []redisstream.Ref, err error)
	// Leave marks this consumer as gone; what it still holds may be taken over at once, at no cost of an attempt.
	Leave(ctx context.Context, c redisstream.Consumer, stream string) error
}

// typeLog is the part of a transport where events wait for a consumer that handles their type.
type typeLog interface {
	// LetWait settles deliveries, all of one stream, by copies that wait until a consumer comes that
	// handles their types. Where the patterns of the group are not of the given version, nothing is done.
	// Each delivery has its own result; the error is the reason of those that are Unknown.
	LetWait(
		ctx context.Context, c redisstream.Consumer, stream string, waits []redisstream.Wait, version int64,
	) ([]redisstream.Settled, error)
	// WaitingTypes names up to most types of which events wait for a consumer that handles them, in their
	// order: those that begin with the prefix and come behind the type after. There are no more where it
	// names none.
	WaitingTypes(
		ctx context.Context, stream, group, prefix, after string, most int,
	) ([]string, error)
	// Fetch hands up to count events that wait for a consumer of one of the types to this one, the oldest
	// of each type first.
	Fetch(
		ctx context.Context, c redisstream.Consumer, stream string, types []string, count int,
	) ([]redisstream.Delivered, error)
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
	// Pause changes what is written about the pause of a group, if it is still what the caller saw, and reports whether it did.
	// Then the record of the group's failures ends.
	Pause(ctx context.Context, stream, group, seen, text string) (bool, error)
}

// onceLog is the part of a transport that remembers which events a group has done. A key stands for an event, see onceKey.
type onceLog interface {
	Marked(ctx context.Context, stream, group, key string) (bool, error)
	Mark(ctx context.Context, stream, group, key string, ttl time.Duration) error
}
