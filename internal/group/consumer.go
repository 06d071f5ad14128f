package group

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rishi-platform/millrace/internal/loop"
	"github.com/rishi-platform/millrace/internal/pattern"
	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/wire"
)

// Consumer is one running instance in a group. See New, Join and Start.
type Consumer struct {
	host   Host
	log    Log
	link   Link
	wire   wire.Format
	cfg    Config
	self   redisstream.Consumer
	logger *slog.Logger
	begun  time.Time
	twins  bool // two reads may be under way at once: order is not asked for

	reading     context.Context // ends when the consumer stops to take work
	stopReading context.CancelFunc
	handling    context.Context // ends when the work that is left is abandoned
	abandon     context.CancelCauseFunc
	loops       loop.Group // all but those that outlast the drain
	tending     loop.Group // settleLoop, leaseLoop, each beatLoop, and what they or handlers begin
	tended      context.Context
	stopTending context.CancelFunc
	closeOnce   sync.Once
	closed      chan struct{}

	holdings holdings
	lapsed   atomic.Int64 // when one of the memberships lapsed last: see freshen
	budget   budget       // of what is read or taken at once
	acks     settlements
	done     doneEvents

	handled, failed atomic.Int64 // deliveries, since the consumer began
	failedAfter     atomic.Int64 // how many were handled when one failed last, and 1; 0: none has
	putOffCut       atomic.Bool  // it was said that a put-off was cut to putOffLimit

	mu            sync.Mutex // guards what follows
	streams       map[string]*membership
	readers       []*reader
	stuckHandlers map[*Holding]stuckHandler
	reasons       map[string]string // the last error, by fingerprint; see noteReason
}

const (
	readBlock = redisstream.MaxBlock
	// deniedFor is how long a stream is left alone that the server refuses for good. Then a right that was given may have healed it.
	deniedFor = 30 * time.Second
	// finishTimeout bounds the last commands of a consumer that stops.
	finishTimeout = 2 * time.Second
)

// Join takes the consumer's place in the groups of the streams that there are. An error means that a person
// must act; a server that is away does not. With read the streams are read from now on. Then call Start or Undo.
func (c *Consumer) Join(ctx context.Context, read bool) error {
	assign := c.assign
	if !read {
		assign = func(string) {}
	}
	return c.addFirstStreams(ctx, assign)
}

// Start begins to hand deliveries out.
func (c *Consumer) Start() {
	c.loops.Start("deliver", c.deliverLoop)
	if c.host.Spool != nil {
		c.loops.Start("fallback", c.fallbackLoop)
	}
	if _, all := c.named(); all {
		c.loops.Start("discover", c.discoverLoop)
	}
	c.tending.Start("settle", c.settleLoop)
	c.tending.Start("lease", c.leaseLoop)
	context.AfterFunc(c.reading, c.Close)
}

// New returns a consumer that does nothing yet. It stops when ctx ends; handlers have the values of ctx.
func New(ctx context.Context, host Host, cfg Config) *Consumer {
	c := &Consumer{
		host: host, log: host.Log, link: host.Link, wire: host.Wire, cfg: cfg, begun: time.Now(),
		self:    redisstream.Consumer{Group: cfg.Group, Name: cfg.Name},
		closed:  make(chan struct{}),
		streams: map[string]*membership{},

		stuckHandlers: map[*Holding]stuckHandler{}, reasons: map[string]string{},
	}
	c.twins = host.Link != nil && cfg.InFlight > 1 && !cfg.Policy.PerSubject
	if host.Link == nil {
		c.link = noLink{}
	}
	c.logger = host.Logger.With("group", cfg.Group, "consumer", c.self.Name)
	c.holdings.init(cfg.InFlight, cfg.Policy.PerSubject, host.Outlet.New)
	c.holdings.own.self = c.self.Name
	c.acks.init()
	c.reading, c.stopReading = context.WithCancel(ctx)
	c.handling, c.abandon = context.WithCancelCause(context.WithoutCancel(ctx))
	c.tended, c.stopTending = context.WithCancel(context.Background())
	return c
}

// addFirstStreams begins with the streams that there are. A server that is away is no error; one that refuses for good is, for the
// streams that topic or patterns name.
func (c *Consumer) addFirstStreams(ctx context.Context, read func(stream string)) error {
	streams, err := c.find(ctx)
	if err != nil && !isAway(err) {
		return c.shape("list streams", "", err)
	}
	named, _ := c.named()
	for _, s := range streams {
		err := c.addStream(ctx, s, c.cfg.FromNow, read)
		if isDenied(err) && !slices.Contains(named, s) || isAway(err) {
			continue // its reader tries again
		}
		if err != nil {
			return c.joinError(s, err)
		}
	}
	return nil
}

// Undo ends a consumer that has not begun.
func (c *Consumer) Undo(err error) {
	c.stopReading()
	c.stopTending()
	c.abandon(err)
	c.loops.Wait() // readers
	c.tending.Wait()
	c.leave()
}

// named returns the streams that topic and patterns name, and whether streams are to be found.
func (c *Consumer) named() (streams []string, all bool) {
	if c.cfg.Topic != AllStreams {
		return []string{c.cfg.Topic}, false
	}
	return pattern.Streams(c.cfg.Patterns)
}

// find names the streams that there are for this consumer.
func (c *Consumer) find(ctx context.Context) ([]string, error) {
	streams, all := c.named()
	if !all {
		return streams, nil
	}
	there, err := c.log.Streams(ctx)
	for _, s := range there {
		if len(pattern.Of(c.cfg.Patterns, s)) > 0 && !slices.Contains(streams, s) {
			streams = append(streams, s)
		}
	}
	return streams, err
}

// patterns returns what this consumer handles of a stream.
func (c *Consumer) patterns(stream string) []string {
	if len(c.cfg.Patterns) == 0 {
		return pattern.WholeStream(stream)
	}
	return pattern.Of(c.cfg.Patterns, stream)
}

// handles reports whether this consumer has a handler for the type.
func (c *Consumer) handles(eventType string) bool {
	return len(c.cfg.Patterns) == 0 || pattern.MatchAny(c.cfg.Patterns, eventType)
}

// nowMargin is how much older than the consumer an event may be that a group from Now gets, where it could not join at once: positions
// are the server's time, the beginning of the consumer is ours.
const nowMargin = 10 * time.Second

// begin is the ID behind which a group starts that does not exist. A group from Now that is made later than its consumer (the stream was
// made later, the server was away, it forgot the group) starts at the time of the consumer: at the end it would miss what came since.
func (c *Consumer) begin() redisstream.ID {
	if c.cfg.FromNow {
		return redisstream.ID{MS: uint64(max(0, c.begun.Add(-nowMargin).UnixMilli()))}
	}
	return c.cfg.From
}

// assign gives the stream to a reader that has room for it, or to a new one.
func (c *Consumer) assign(stream string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	limit := c.log.StreamsPerRead()
	for _, r := range c.readers {
		if len(r.streams) < limit {
			r.streams = append(r.streams, stream)
			return
		}
	}
	r := &reader{consumer: c, streams: []string{stream}, twin: make(chan struct{}, 1)}
	c.readers = append(c.readers, r)
	c.loops.Start("read", r.readLoop)
	if c.twins {
		c.loops.Start("read too", r.twinLoop)
	}
}

// discoverEvery is how soon a stream that is made later is noticed by those who follow all streams.
const discoverEvery = 5 * time.Second

// discoverLoop finds streams that are made later.
func (c *Consumer) discoverLoop() {
	for loop.Sleep(c.reading, discoverEvery) {
		streams, err := c.find(c.reading)
		if err != nil {
			continue // the next round finds them
		}
		for _, s := range streams {
			c.mu.Lock()
			known := c.streams[s] != nil
			c.mu.Unlock()
			if !known {
				_ = c.addStream(c.reading, s, false, c.assign) // its reader tries again
			}
		}
	}
}

// Close stops the consumer and waits until it has stopped.
//
// The order: reading stops first, so that nothing new comes in. Handlers that run go on, with a ctx that lives, until the drain deadline;
// then they are abandoned. What was settled is acknowledged, and what is left is handed back by leaving, at no cost of an
// attempt. The beat ends just before that, so that nobody takes anything over while handlers still run.
func (c *Consumer) Close() {
	c.closeOnce.Do(func() {
		defer close(c.closed)
		c.stopReading()
		deadline := time.AfterFunc(c.cfg.Policy.DrainTimeout, func() { c.abandon(ErrDrainDeadline) })
		c.loops.Wait() // deliverLoop has closed the Outlet: nothing is handed out any more
		if left := c.holdings.drain(c.handling); left > 0 {
			c.logger.Warn("drain deadline has passed, deliveries are handed back", "deliveries", left)
		}
		deadline.Stop()
		c.abandon(ErrDrainDeadline)
		if c.host.Spool != nil {
			c.host.Spool.Abandon(c.self)
		}
		c.acks.close()
		c.stopTending()
		c.tending.Wait()
		c.leave()
		c.host.Ended()
	})
	<-c.closed
}

// IsClosed reports whether the consumer has stopped.
func (c *Consumer) IsClosed() bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
	}
}

// leave gives back what this consumer holds. Where it can't say so, peers find out by themselves some seconds later.
func (c *Consumer) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), finishTimeout)
	defer cancel()
	raised := c.holdings.raisedHere()
	eachOf(c.joined(), func(m *membership) {
		c.lower(ctx, m, raised[m.stream])
		err := c.log.Leave(ctx, c.self, m.stream)
		class := redisstream.Classify(err)
		if err == nil || ctx.Err() != nil || class == redisstream.Lost || errors.Is(err, redisstream.ErrClosed) {
			return
		}
		if class == redisstream.Away {
			cancel() // for the other streams as well
		}
		c.logger.Warn("consumer could not say that it leaves", "stream", m.stream, "err", err)
	})
}

// eachOf calls the function for each of the memberships, a few at the same time: one round trip
// after the other would take too long where there are many streams.
func eachOf(of []*membership, f func(*membership)) {
	var calls sync.WaitGroup
	room := make(chan struct{}, 16)
	for _, m := range of {
		room <- struct{}{}
		calls.Go(func() { f(m); <-room })
	}
	calls.Wait()
}

// String names the consumer in errors.
func (c *Consumer) String() string { return fmt.Sprintf("%s/%s", c.cfg.Group, c.self.Name) }
