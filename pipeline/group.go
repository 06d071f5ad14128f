package pipeline

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/rishi-platform/millrace/internal/group"
)

// AllStreams is the topic that stands for every stream which the patterns of a GroupConfig name or match, those that are made
// later included. Any other topic given to the subscriber is the name of one stream.
const AllStreams = "*"

// GroupConfig is a consumer group as seen by one of its instances. Each event goes to one instance of the group, at
// least once.
type GroupConfig struct {
	// Group is the name, 1 to 64 of [A-Za-z0-9._-].
	Group string
	// Patterns are the event types that this instance handles. What the group as a whole takes is the union of the patterns
	// of all instances that it ever had, but for what ForgetType takes away. Empty: every type of the
	// topic that is subscribed.
	Patterns []string
	// InFlight bounds the deliveries that are handed over and not settled yet. Default: 256.
	InFlight int
	// From is where the group starts when it does not exist yet. Default: Oldest, so that nothing is missed.
	From Position
	// Policy says what becomes of deliveries.
	Policy Policy
	// SettledByHandler means that whoever gets the messages settles each with Delivery.Settle, and that Ack and Nack of the
	// message are not listened to. Package router sets it: it saves a goroutine per delivery.
	SettledByHandler bool
	// WithoutMetadata leaves Metadata of the messages nil, which spares a map per delivery. Package router sets it where there is no
	// middleware that could look at it; the event is in CurrentDelivery(ctx).
	WithoutMetadata bool
}

// Policy says how a group treats deliveries that fail, and how it stops. The defaults are those of DESIGN §15.
type Policy struct {
	// Attempts is how often a delivery may fail before it becomes a dead letter. Default: 20, which
	// with DefaultBackoff takes about 2.5 hours; negative: without end. Crashes are counted apart.
	Attempts int
	// CrashLimit is how often processes may die while they handle a delivery before it becomes a dead letter. Only a delivery that was
	// running then is counted, and the first time not, since nobody knows whether it was. Default: 3; negative: without end.
	CrashLimit int
	// Backoff returns how long a delivery waits after it failed for the given time (1, 2, …); that
	// it was put off without a time (RetryAfterError) counts here as well. Default: DefaultBackoff.
	Backoff func(failures int) time.Duration
	// Timeout is how long a handler may run; then its ctx is cancelled, and whatever it returns is a failure. The delivery stays this
	// instance's until it returns. Default: 0, without end.
	Timeout time.Duration
	// ClaimIdle is after how long a delivery is taken that a consumer of other software has left pending. Those of Millrace beat, and are not
	// claimed while they live. Default: 60 s.
	ClaimIdle time.Duration
	// DeadLetters and DeadLetterAge bound the dead letters of the group: the oldest go, and are counted. Defaults: 100,000 and 30 days.
	DeadLetters   int
	DeadLetterAge time.Duration
	// DrainTimeout is how long a stop waits for deliveries in flight, whose ctx stays alive until then. Default: 20 s.
	DrainTimeout time.Duration
	// PerSubject runs the deliveries of one subject one after the other within this instance.
	// One that failed holds its subject until its next attempt has ended, or has been taken by another instance.
	PerSubject bool
	// NeverPause keeps the group from being paused, and this instance from stopping itself, where nearly
	// everything fails: each event has all of its attempts then. An operator may pause it all the same, and
	// a WorkerError still stops the instance.
	NeverPause bool
}

// defaultAttempts and backoffLongest together outlast a deploy and most troubles of a database: the
// 19 waits between 20 attempts are 1 + 2 + … + 512 s and 9 × 15 min, 2 h 32 min in all.
const (
	defaultAttempts = 20
	backoffLongest  = 15 * time.Minute
)

// DefaultBackoff is 1 s after the first failure, doubling to 15 min, each ± 20 %, so that what
// failed together does not come again together. The waits between 20 attempts sum up to 2 h 32 min.
func DefaultBackoff(failures int) time.Duration {
	wait := min(time.Second<<min(max(failures-1, 0), 10), backoffLongest)
	return time.Duration(float64(wait) * (0.8 + 0.4*rand.Float64()))
}

// Where a delivery came from, in Delivery.Origin.
const (
	OriginFresh   = ""        // the stream
	OriginRetry   = "retry"   // an earlier attempt failed, or asked for more time
	OriginRequeue = "requeue" // it was a dead letter
	OriginReplay  = "replay"  // an operator asked for it again
	OriginDrain   = "drain"   // accepted while Redis was away

	OriginRestored = "restored" // Redis had confirmed it, and had forgotten it
)

// Delivery is one attempt to hand one event to one group.
type Delivery struct {
	Event    Event
	Stream   string
	Position Position // of the event in its stream, also when the delivery came by the group's lane
	Group    string
	Consumer string
	Attempt  int       // failures + crashes + 1
	Crashes  int       // how often a process is known to have died while it handled the event
	First    time.Time // when the first attempt began
	Origin   string    // OriginFresh, OriginRetry, …
	Claimed  bool      // taken over from a consumer that died or left
	Hop      string    // W3C traceparent of whoever sent it again; empty for a fresh one
	Previous string    // W3C traceparent of the last failed attempt; empty where unknown

	holding *group.Holding // of which it is a part
}

// Begin is called by those who set GroupConfig.SettledByHandler, just before the handler starts. It
// reports whether it may start: not where another consumer has the delivery by now, nor where the
// group was paused meanwhile, nor where this process stood still for some seconds and may have been
// taken for dead; then the delivery comes again when it may start, if it is still this consumer's. One
// that is not to begin is settled with ErrLeaseLost, which settles nothing.
func (d *Delivery) Begin() bool { return d.holding.Begin() }

// Settle ends the delivery: nil acknowledges it, an error makes it a failure. Only the first call counts. It is for those who
// set GroupConfig.SettledByHandler.
func (d *Delivery) Settle(err error) { d.holding.Settle(err) }

func (g GroupConfig) withDefaults() GroupConfig {
	setDefault(&g.InFlight, 256)
	setDefault(&g.From, Oldest)
	setDefault(&g.Policy.DrainTimeout, 20*time.Second)
	setDefault(&g.Policy.Attempts, defaultAttempts)
	setDefault(&g.Policy.CrashLimit, 3)
	setDefault(&g.Policy.ClaimIdle, time.Minute)
	setDefault(&g.Policy.DeadLetters, 100_000)
	setDefault(&g.Policy.DeadLetterAge, 30*24*time.Hour)
	if g.Policy.Backoff == nil {
		g.Policy.Backoff = DefaultBackoff
	}
	return g
}

// consumer is what internal/group is told of it.
func (g *GroupConfig) consumer(b *Bus, topic string, asked Position) group.Config {
	c := group.Config{
		Group: g.Group, Name: b.instance + "-" + newID()[24:], Topic: topic, Patterns: g.Patterns,
		InFlight: g.InFlight, Asked: string(asked), Policy: group.Policy(g.Policy),
	}
	switch g.From {
	case Oldest:
	case Now:
		c.FromNow = true
	default:
		c.From = g.From.bound().Prev() // From names the first event
	}
	return c
}

// newConsumer returns a consumer that does nothing yet, and where its deliveries come out.
func newConsumer(ctx context.Context, b *Bus, cfg GroupConfig, topic string) *outlet {
	asked := cfg.From
	cfg = cfg.withDefaults()
	o := newOutlet(b, cfg)
	host := group.Host{
		Log: b.log, Wire: b.wire(), Outlet: o, Logger: b.logger, Started: b.started, Shape: b.redisError,
		About: func() string { return aboutConsumer(b, o.consumer) },
		Announce: func(ctx context.Context, stream string, p group.Pause, paused bool) {
			what := typeGroupResumed
			if paused {
				what = typeGroupPaused
			}
			b.announcePause(ctx, what, stream, cfg.Group, Pause(p))
		},
		Ended: func() { b.leave(o.consumer) },
	}
	if b.link != nil {
		host.Link = b.link
	}
	if b.spool != nil && b.cfg.Fallback == Local {
		host.Spool = fallbackSpool{b.spool}
	}
	if unhandled := b.cfg.Hooks.Unhandled; unhandled != nil {
		host.Unhandled = func(stream, eventType string) { unhandled(stream, cfg.Group, eventType) }
	}
	o.consumer = group.New(ctx, host, cfg.consumer(b, topic, asked))
	return o
}

// consume joins the group and starts a consumer. An error means that a person must act; a server that is away
// does not.
func (b *Bus) consume(ctx context.Context, cfg GroupConfig, topic string) (*outlet, error) {
	if b.cfg.NoPublish {
		return nil, errNoPublish
	}
	o := newConsumer(ctx, b, cfg, topic)
	err := o.consumer.Join(ctx, true)
	if err == nil {
		err = b.adopt(o.consumer)
	}
	if err != nil {
		o.consumer.Undo(err)
		return nil, err
	}
	o.consumer.Start()
	return o, nil
}

// initializeGroup joins the group and leaves it again. It reads nothing. It returns how many streams it has joined.
func (b *Bus) initializeGroup(ctx context.Context, cfg GroupConfig, topic string) (int, error) {
	if b.cfg.NoPublish {
		return 0, errNoPublish
	}
	c := newConsumer(ctx, b, cfg, topic).consumer
	err := c.Join(ctx, false)
	joined := c.Memberships()
	c.Undo(context.Canceled)
	return joined, err
}

// adopt enters a consumer into the bus, which closes it with itself.
func (b *Bus) adopt(c *group.Consumer) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return ErrClosed
	}
	b.consumers[c] = struct{}{}
	return nil
}

func (b *Bus) leave(c *group.Consumer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.consumers, c)
}

// consuming returns the consumers of this process.
func (b *Bus) consuming() []*group.Consumer {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Collect(maps.Keys(b.consumers))
}
