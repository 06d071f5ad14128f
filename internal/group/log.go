package group

import (
	"context"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// Log is what a consumer asks of the log: Redis (internal/redisstream.Client) or memory
// (internal/memstream.Memory). Each step that settles is atomic, and does nothing to a delivery that is no
// longer pending with this consumer.
type Log interface {
	Entries
	Results
	Liveness
}

// Entries brings deliveries to consumers.
type Entries interface {
	// Streams names the streams there are, sorted.
	Streams(ctx context.Context) ([]string, error)
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
	// TakeOver moves some deliveries of the peer to this consumer if the peer's beat is still the
	// given one, and forgets the peer when it holds none any more.
	TakeOver(ctx context.Context, c redisstream.Consumer, stream string, p redisstream.Peer, most redisstream.Most) ([]redisstream.Delivered, error)
	// Strangers takes some deliveries that consumers without a beat have left pending for longer
	// than idle.
	Strangers(ctx context.Context, c redisstream.Consumer, stream string, idle time.Duration, most redisstream.Most) ([]redisstream.Delivered, error)
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
}

// Results settles deliveries.
type Results interface {
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
	// LetWait settles deliveries, all of one stream, by copies that wait until a consumer comes that
	// handles their types. Where the patterns of the group are not of the given version, nothing is done.
	// Each delivery has its own result; the error is the reason of those that are Unknown.
	LetWait(
		ctx context.Context, c redisstream.Consumer, stream string, waits []redisstream.Wait, version int64,
	) ([]redisstream.Settled, error)
}

// Liveness is what the consumers of a group tell each other.
type Liveness interface {
	// Beat tells the group of one stream that this consumer lives, moves what is due and was forgotten from the
	// deferred set to the lane, and reports on the group.
	Beat(ctx context.Context, c redisstream.Consumer, stream string, say redisstream.Say) (redisstream.Beat, error)
	// Promote moves what is due from the deferred set to the lane, some at a time.
	Promote(ctx context.Context, stream, group string) (redisstream.Promoted, error)
	// Flow adds this consumer's share to the record of the group's failures, if there is one (see
	// breaker.go), and returns its sums, if they are asked for.
	Flow(ctx context.Context, c redisstream.Consumer, stream string, s redisstream.Share) (redisstream.Flow, error)
	// Raise raises the delivery counts of suspects of one stream, just before their handlers start, and
	// returns those that are no longer pending with this consumer. Raising again changes nothing.
	Raise(ctx context.Context, c redisstream.Consumer, stream string, suspects []redisstream.Suspect) (gone []redisstream.Ref, err error)
	// Lower puts the delivery counts of suspects of one stream back that were raised and have no result
	// when their consumer leaves. One that was not raised, or is not pending with this consumer, stays as
	// it is.
	Lower(ctx context.Context, c redisstream.Consumer, stream string, suspects []redisstream.Suspect) error
	// Renew makes deliveries of one stream look fresh to other software, and returns those no longer pending with this consumer.
	Renew(ctx context.Context, c redisstream.Consumer, stream string, refs []redisstream.Ref) (gone []redisstream.Ref, err error)
	// Leave marks this consumer as gone; what it still holds may be taken over at once, at no cost of an attempt.
	Leave(ctx context.Context, c redisstream.Consumer, stream string) error
	// Pause changes what is written about the pause of a group, if it is still what the caller saw, and reports whether it did.
	// Then the record of the group's failures ends.
	Pause(ctx context.Context, stream, group, seen, text string) (bool, error)
}
