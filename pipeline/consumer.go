package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/rishi-platform/millrace/internal/loop"
	"github.com/rishi-platform/millrace/internal/memstream"
	"github.com/rishi-platform/millrace/internal/pattern"
	"github.com/rishi-platform/millrace/internal/redisstream"
)

// A consumer is one running instance in a group. Its goroutines:
//
//	readLoop     reads what is new, as much as there is room for (one per 64 streams)
//	twinLoop     keeps a second read under way where round trips are long
//	deliverLoop  decides what is handled here, and hands deliveries out
//	settleLoop   acknowledges what was handled, as many IDs in one command as there are
//	beatLoop     says that this consumer lives, has moved what is due, finds out who is dead (one per stream)
//	passOnLoop   passes on what is not handled here (one per stream, while there is any)
//	takeOver     takes from the dead, and what waits for a handler that is here (while there is any)
//	raise        raises the counts of suspects before they run (while there are any)
//	leaseLoop    finds out what was taken away, and takes from consumers of other software
//	fallbackLoop handles what is in the spool while Redis is away, with Fallback Local
//	discoverLoop finds streams that are made later, where a pattern follows all of them
//
// What the consumer holds (delivered by the log and not settled there yet) is known by Ref, so that an
// entry that comes twice, by a take-over or from its own pending list, is never handled twice at once.
type consumer struct {
	bus    *Bus
	cfg    GroupConfig
	self   redisstream.Consumer
	topic  string // a stream, or AllStreams
	logger *slog.Logger
	begun  time.Time
	twins  bool // two reads may be under way at once: order is not asked for
	out    chan *message.Message
	values context.Context // the values of the ctx of Subscribe, for the ctx of each delivery

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
	stuckHandlers map[*holding]stuckHandler
	reasons       map[string]string // the last error, by fingerprint; see noteReason
}

const (
	readBlock = redisstream.MaxBlock
	// outBuffer is how many messages wait for the router at most.
	outBuffer = 64
	// deniedFor is how long a stream is left alone that the server refuses for good. Then a right that was given may have healed it.
	deniedFor = 30 * time.Second
	// finishTimeout bounds the last commands of a consumer that stops.
	finishTimeout = 2 * time.Second
)

// newConsumer joins the group and starts the loops. An error means that a person must act; a server that is away does not.
func newConsumer(ctx context.Context, b *Bus, cfg GroupConfig, topic string) (*consumer, error) {
	if b.cfg.NoPublish {
		return nil, errNoPublish
	}
	c := prepareConsumer(ctx, b, cfg, topic)
	err := c.addFirstStreams(ctx, c.assign)
	if err == nil {
		err = b.adopt(c)
	}
	if err != nil {
		c.undo(err)
		return nil, err
	}
	c.loops.Start("deliver", c.deliverLoop)
	if c.fallsBack() {
		c.loops.Start("fallback", c.fallbackLoop)
	}
	if _, all := c.named(); all {
		c.loops.Start("discover", c.discoverLoop)
	}
	c.tending.Start("settle", c.settleLoop)
	c.tending.Start("lease", c.leaseLoop)
	context.AfterFunc(c.reading, func() { c.close() })
	return c, nil
}

// initializeGroup joins the group and leaves it again. It reads nothing. It returns how many streams it has joined.
func initializeGroup(ctx context.Context, b *Bus, cfg GroupConfig, topic string) (int, error) {
	if b.cfg.NoPublish {
		return 0, errNoPublish
	}
	c := prepareConsumer(ctx, b, cfg, topic)
	err := c.addFirstStreams(ctx, func(string) {})
	joined := len(c.joined())
	c.undo(context.Canceled)
	return joined, err
}

// prepareConsumer returns a consumer that does nothing yet.
func prepareConsumer(ctx context.Context, b *Bus, cfg GroupConfig, topic string) *consumer {
	cfg = cfg.withDefaults()
	c := &consumer{
		bus: b, cfg: cfg, topic: topic, values: context.WithoutCancel(ctx), begun: time.Now(),
		self:    redisstream.Consumer{Group: cfg.Group, Name: b.instance + "-" + newID()[24:]},
		closed:  make(chan struct{}),
		streams: map[string]*membership{},

		stuckHandlers: map[*holding]stuckHandler{}, reasons: map[string]string{},
	}
	c.twins = b.redis != nil && cfg.InFlight > 1 && !cfg.Policy.PerSubject
	c.logger = b.logger.With("group", cfg.Group, "consumer", c.self.Name)
	// A buffer spares a switch of goroutines per message. A foreign reader may stop reading at any time, and must find nothing in it then.
	buffer := 0
	if cfg.SettledByHandler {
		buffer = min(outBuffer, cfg.InFlight)
	}
	c.out = make(chan *message.Message, buffer)
	c.holdings.init(cfg.InFlight, cfg.Policy.PerSubject)
	c.holdings.own.self = c.self.Name
	c.acks.init()
	c.reading, c.stopReading = context.WithCancel(ctx)
	c.handling, c.abandon = context.WithCancelCause(c.values)
	c.tended, c.stopTending = context.WithCancel(context.Background())
	return c
}

// addFirstStreams begins with the streams that there are. A server that is away is no error; one that refuses for good is, for the
// streams that topic or patterns name.
func (c *consumer) addFirstStreams(ctx context.Context, read func(stream string)) error {
	streams, err := c.find(ctx)
	if err != nil && !errors.Is(err, ErrUnavailable) {
		return err
	}
	named, _ := c.named()
	for _, s := range streams {
		err := c.addStream(ctx, s, c.cfg.From == Now, read)
		if errors.Is(err, ErrDenied) && !slices.Contains(named, s) || errors.Is(err, ErrUnavailable) {
			continue // its reader tries again
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// undo ends a consumer that has not begun.
func (c *consumer) undo(err error) {
	c.stopReading()
	c.stopTending()
	c.abandon(err)
	c.loops.Wait() // readers
	c.tending.Wait()
	c.leave()
}

// adopt enters the consumer into the bus, which closes it with itself.
func (b *Bus) adopt(c *consumer) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return ErrClosed
	}
	b.consumers[c] = struct{}{}
	return nil
}

// named returns the streams that topic and patterns name, and whether streams are to be found.
func (c *consumer) named() (streams []string, all bool) {
	if c.topic != AllStreams {
		return []string{c.topic}, false
	}
	return pattern.Streams(c.cfg.Patterns)
}

// find names the streams that there are for this consumer.
func (c *consumer) find(ctx context.Context) ([]string, error) {
	streams, all := c.named()
	if !all {
		return streams, nil
	}
	there, err := c.bus.Streams(ctx)
	for _, s := range there {
		if len(pattern.Of(c.cfg.Patterns, s)) > 0 && !slices.Contains(streams, s) {
			streams = append(streams, s)
		}
	}
	return streams, err
}

// patterns returns what this consumer handles of a stream.
func (c *consumer) patterns(stream string) []string {
	if len(c.cfg.Patterns) == 0 {
		return pattern.WholeStream(stream)
	}
	return pattern.Of(c.cfg.Patterns, stream)
}

// handles reports whether this consumer has a handler for the type.
func (c *consumer) handles(eventType string) bool {
	return len(c.cfg.Patterns) == 0 || pattern.MatchAny(c.cfg.Patterns, eventType)
}

// nowMargin is how much older than the consumer an event may be that a group from Now gets, where it could not join at once: positions
// are the server's time, the beginning of the consumer is ours.
const nowMargin = 10 * time.Second

// begin is the ID behind which a group starts that does not exist. A group from Now that is made later than its consumer (the stream was
// made later, the server was away, it forgot the group) starts at the time of the consumer: at the end it would miss what came since.
func (c *consumer) begin() redisstream.ID {
	switch c.cfg.From {
	case Oldest:
		return redisstream.ID{}
	case Now:
		return At(c.begun.Add(-nowMargin)).bound()
	}
	return c.cfg.From.bound().Prev() // From names the first event
}

// assign gives the stream to a reader that has room for it, or to a new one.
func (c *consumer) assign(stream string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	limit := c.bus.log.StreamsPerRead()
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

// discoverLoop finds streams that are made later.
func (c *consumer) discoverLoop() {
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

// close stops the consumer and waits until it has stopped.
//
// The order: reading stops first, so that nothing new comes in. Handlers that run go on, with a ctx that lives, until the drain deadline;
// then they are abandoned. What was settled is acknowledged, and what is left is handed back by leaving, at no cost of an
// attempt. The beat ends just before that, so that nobody takes anything over while handlers still run.
func (c *consumer) close() {
	c.closeOnce.Do(func() {
		defer close(c.closed)
		c.stopReading()
		deadline := time.AfterFunc(c.cfg.Policy.DrainTimeout, func() { c.abandon(ErrDrainDeadline) })
		c.loops.Wait() // deliverLoop has closed the channel of messages: nothing is handed out any more
		if left := c.holdings.drain(c.handling); left > 0 {
			c.logger.Warn("drain deadline has passed, deliveries are handed back", "deliveries", left)
		}
		deadline.Stop()
		c.abandon(ErrDrainDeadline)
		c.bus.spool.abandon(c)
		c.acks.close()
		c.stopTending()
		c.tending.Wait()
		c.leave()
		c.bus.mu.Lock()
		delete(c.bus.consumers, c)
		c.bus.mu.Unlock()
	})
	<-c.closed
}

func (c *consumer) isClosed() bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
	}
}

// leave gives back what this consumer holds. Where it can't say so, peers find out by themselves some seconds later.
func (c *consumer) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), finishTimeout)
	defer cancel()
	raised := c.holdings.raisedHere()
	eachOf(c.joined(), func(m *membership) {
		c.lower(ctx, m, raised[m.stream])
		err := c.bus.log.Leave(ctx, c.self, m.stream)
		class := redisstream.Classify(err)
		if err == nil || ctx.Err() != nil || class == redisstream.Lost || errors.Is(err, memstream.ErrClosed) {
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
func (c *consumer) String() string { return fmt.Sprintf("%s/%s", c.cfg.Group, c.self.Name) }
