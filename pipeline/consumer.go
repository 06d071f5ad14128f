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
	"github.com/rishi-platform/millrace/internal/redisstream"
)

// A consumer is one running instance in a group. Its goroutines:
//
//	readLoop     reads what is new into the intake, as much as the window has room for (one per 32 streams)
//	twinLoop     keeps a second read under way where round trips are long
//	deliverLoop  takes the intake in order, decides what is handled here, and hands deliveries out
//	settleLoop   acknowledges what was handled, as many IDs in one command as there are
//	beatLoop     says that this consumer lives, moves what is due, finds out who is dead
//	takeOverLoop takes over from the dead, and fetches what waits for a handler that is here
//	suspectLoop  lets those run that may be what their last consumer died of (two of them)
//	leaseLoop    finds out what was taken away, and takes from consumers of other software
//	fallbackLoop handles what is in the spool while Redis is away, with Fallback Local
//	discoverLoop finds streams that are made later, where a pattern follows all of them
//
// What the consumer holds (delivered by the log and not settled there yet) is known by Ref, so that an entry that comes
// twice, by a take-over or from its own pending list, is never handled twice at once.
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
	loops       loops // all but those that outlast the drain
	tending     loops // settleLoop, beatLoop and leaseLoop
	tended      context.Context
	stopTending context.CancelFunc
	closeOnce   sync.Once
	closed      chan struct{}

	intake chan []redisstream.Delivered
	window window
	acks   settlements
	kick   chan struct{} // asks beatLoop for a beat now
	turns  chan struct{} // says that ready is not empty
	found  chan []finding
	done   doneEvents

	// takingOver is held while something is taken over: reconcile would find it pending here, and not know where it came from.
	takingOver sync.Mutex

	suspects, dangerous suspects     // see suspectLoop
	handled, failed     atomic.Int64 // deliveries, since the consumer began
	putOffCut           atomic.Bool  // it was said that a put-off was cut to putOffLimit

	mu            sync.Mutex // guards what follows
	streams       map[string]*membership
	readers       []*reader
	subjects      map[string]*subject // with Policy.PerSubject
	ready         []*handed           // those whose turn has come, for deliverLoop
	stuckHandlers map[*handed]stuckHandler
}

// membership is the consumer's place in the group of one stream.
type membership struct {
	joined   bool
	before   bool                 // it was joined at some time
	denied   time.Time            // when the server refused for good to let it join; zero: it did not
	patterns redisstream.Patterns // what the group takes, as last heard
	watch    peerWatch            // used by beatLoop only
	breaker  breaker
	fresh    atomic.Int64   // until when deliveries may begin, in Unix nanoseconds; see awaitFresh
	isPaused atomic.Bool    // paused is not nil: asked without the lock
	paused   *paused        // nil: it is not
	aside    []*handed      // deliveries that wait for the next beat, so that those from the spool need not
	pausing  bool           // this consumer has decided about a pause, and it is not written yet
	highest  redisstream.ID // of the entries that were read first
}

const (
	readBlock = redisstream.MaxBlock
	// outBuffer is how many messages wait for the router at most.
	outBuffer = 64
	beatEvery = 2 * time.Second
	// deniedFor is how long a stream is left alone that the server refuses for good. Then a right that was given may have healed it.
	deniedFor = 30 * time.Second
	// finishTimeout bounds the last commands of a consumer that stops.
	finishTimeout = 2 * time.Second
)

// newConsumer joins the group and starts the loops. An error means that a person must act; a server that is away does not.
func newConsumer(ctx context.Context, b *Bus, cfg GroupConfig, topic string) (*consumer, error) {
	c := prepareConsumer(ctx, b, cfg, topic)
	err := c.addFirstStreams(ctx, c.assign)
	if err == nil {
		err = b.adopt(c)
	}
	if err != nil {
		c.undo(err)
		return nil, err
	}
	c.loops.start("deliver", c.deliverLoop)
	c.loops.start("take over", c.takeOverLoop)
	c.loops.start("suspects", func() { c.suspectLoop(&c.suspects) })
	c.loops.start("dangerous", func() { c.suspectLoop(&c.dangerous) })
	if c.fallsBack() {
		c.loops.start("fallback", c.fallbackLoop)
	}
	if _, all := c.named(); all {
		c.loops.start("discover", c.discoverLoop)
	}
	c.tending.start("settle", c.settleLoop)
	c.tending.start("beat", c.beatLoop)
	c.tending.start("lease", c.leaseLoop)
	context.AfterFunc(c.reading, func() { c.close() })
	return c, nil
}

// initializeGroup joins the group and leaves it again. It reads nothing. It returns how many streams it has joined.
func initializeGroup(ctx context.Context, b *Bus, cfg GroupConfig, topic string) (int, error) {
	c := prepareConsumer(ctx, b, cfg, topic)
	err := c.addFirstStreams(ctx, func(string) {})
	joined := len(c.memberships())
	c.undo(context.Canceled)
	return joined, err
}

// prepareConsumer returns a consumer that does nothing yet.
func prepareConsumer(ctx context.Context, b *Bus, cfg GroupConfig, topic string) *consumer {
	cfg = cfg.withDefaults()
	c := &consumer{
		bus: b, cfg: cfg, topic: topic, values: context.WithoutCancel(ctx), begun: time.Now(),
		self:     redisstream.Consumer{Group: cfg.Group, Name: b.instance + "-" + newID()[24:]},
		closed:   make(chan struct{}),
		intake:   make(chan []redisstream.Delivered),
		kick:     make(chan struct{}, 1),
		turns:    make(chan struct{}, 1),
		found:    make(chan []finding, 1),
		streams:  map[string]*membership{},
		subjects: map[string]*subject{},

		stuckHandlers: map[*handed]stuckHandler{},
	}
	c.twins = b.redis != nil && cfg.InFlight > 1 && !cfg.Policy.PerSubject
	c.logger = b.logger.With("group", cfg.Group, "consumer", c.self.Name)
	// A buffer spares a switch of goroutines per message. A foreign reader may stop reading at any time, and must find nothing in it then.
	buffer := 0
	if cfg.SettledByHandler {
		buffer = min(outBuffer, cfg.InFlight)
	}
	c.out = make(chan *message.Message, buffer)
	c.window.init(cfg.InFlight)
	c.acks.init()
	c.suspects.init()
	c.dangerous.init()
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
	c.loops.wait() // readers
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
	return namedStreams(c.cfg.Patterns)
}

// find names the streams that there are for this consumer.
func (c *consumer) find(ctx context.Context) ([]string, error) {
	streams, all := c.named()
	if !all {
		return streams, nil
	}
	there, err := c.bus.Streams(ctx)
	for _, s := range there {
		if len(patternsOf(c.cfg.Patterns, s)) > 0 && !slices.Contains(streams, s) {
			streams = append(streams, s)
		}
	}
	return streams, err
}

// patterns returns what this consumer handles of a stream.
func (c *consumer) patterns(stream string) []string {
	if len(c.cfg.Patterns) == 0 {
		return []string{stream, stream + ".**"}
	}
	return patternsOf(c.cfg.Patterns, stream)
}

// handles reports whether this consumer has a handler for the type.
func (c *consumer) handles(eventType string) bool {
	return len(c.cfg.Patterns) == 0 || matchAny(c.cfg.Patterns, eventType)
}

// addStream joins the group of a stream and has it read. Where it can't be joined now, its reader tries again.
func (c *consumer) addStream(ctx context.Context, stream string, fromEnd bool, read func(stream string)) error {
	c.mu.Lock()
	if c.streams[stream] == nil {
		c.streams[stream] = &membership{}
	}
	c.mu.Unlock()
	err := c.join(ctx, stream, fromEnd)
	read(stream)
	return err
}

func cmpErr(first, err error) error {
	if first != nil {
		return first
	}
	return err
}

// join takes the consumer's place in the group of one stream. One that is refused for good is said once, and left alone for a while.
func (c *consumer) join(ctx context.Context, stream string, fromEnd bool) error {
	j := redisstream.Join{Stream: stream, Patterns: c.patterns(stream), From: c.begin(), FromEnd: fromEnd}
	asked := time.Now()
	joined, err := c.bus.log.Join(ctx, c.self, j)
	err = c.bus.redisError("join group "+c.cfg.Group+" of", stream, err)
	c.mu.Lock()
	m := c.streams[stream]
	if err == nil && m.fresh.Load() == 0 {
		m.fresh.Store(asked.Add(freshFor).UnixNano()) // joining is the first beat
	}
	known, lost := !m.denied.IsZero(), false
	switch {
	case err == nil:
		lost = joined.Made && m.before
		m.joined, m.before, m.patterns, m.denied = true, true, joined.Patterns, time.Time{}
	case errors.Is(err, ErrDenied):
		m.denied = time.Now()
	}
	c.mu.Unlock()
	if errors.Is(err, ErrDenied) && !known {
		c.logger.Error("group of a stream can't be joined; tried again from time to time", "stream", stream, "err", err)
	}
	if err == nil {
		c.seePause(stream, joined.Paused, false)
	}
	if lost {
		c.logger.Error("group of a stream was lost and is made again; what it had not settled comes again", "stream", stream, "from", joined.From.String())
	}
	if err == nil && known {
		c.logger.Info("group of a stream is joined at last", "stream", stream)
	}
	return err
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
	r := &reader{consumer: c, streams: []string{stream}}
	c.readers = append(c.readers, r)
	c.loops.start("read", r.readLoop)
	if c.twins {
		c.loops.start("read too", r.twinLoop)
	}
}

// discoverLoop finds streams that are made later.
func (c *consumer) discoverLoop() {
	for sleep(c.reading, discoverEvery) {
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

// take gives entries that the consumer holds now to deliverLoop; false when the consumer stops, and gives them back by leaving.
func (c *consumer) take(fresh []redisstream.Delivered) bool {
	if len(fresh) == 0 {
		return c.reading.Err() == nil
	}
	select {
	case c.intake <- fresh:
		return true
	case <-c.reading.Done():
		return false
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
		c.loops.wait() // deliverLoop has closed the channel of messages: nothing is handed out any more
		if left := c.window.drain(c.handling); left > 0 {
			c.logger.Warn("drain deadline has passed, deliveries are handed back", "deliveries", left)
		}
		deadline.Stop()
		c.abandon(ErrDrainDeadline)
		c.bus.spool.abandon(c)
		c.acks.close()
		c.stopTending()
		c.tending.wait()
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
	c.eachStream(func(stream string) {
		err := c.bus.log.Leave(ctx, c.self, stream)
		if err == nil || ctx.Err() != nil || redisstream.Classify(err) == redisstream.Lost || errors.Is(err, errMemoryClosed) {
			return
		}
		if redisstream.Classify(err) == redisstream.Away {
			cancel() // for the other streams as well
		}
		c.logger.Warn("consumer could not say that it leaves", "stream", stream, "err", err)
	})
}

// eachStream calls the function for each stream that is joined, a few at the same time: one round trip after the other would take too
// long where there are many streams.
func (c *consumer) eachStream(f func(stream string)) {
	var calls sync.WaitGroup
	room := make(chan struct{}, 16)
	for stream := range c.memberships() {
		room <- struct{}{}
		calls.Go(func() { f(stream); <-room })
	}
	calls.Wait()
}

// memberships returns the streams that this consumer has joined, and what their groups take.
func (c *consumer) memberships() map[string]redisstream.Patterns {
	c.mu.Lock()
	defer c.mu.Unlock()
	joined := map[string]redisstream.Patterns{}
	for stream, m := range c.streams {
		if m.joined {
			joined[stream] = m.patterns
		}
	}
	return joined
}

func (c *consumer) membership(stream string) *membership {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.streams[stream]
}

func (c *consumer) setPatterns(stream string, p redisstream.Patterns) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.streams[stream]; m != nil {
		m.patterns = p // also an older version: a server that lost its state begins anew
	}
}

func (c *consumer) groupPatterns(stream string) redisstream.Patterns {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.streams[stream]; m != nil {
		return m.patterns
	}
	return redisstream.Patterns{}
}

// String names the consumer in errors.
func (c *consumer) String() string { return fmt.Sprintf("%s/%s", c.cfg.Group, c.self.Name) }
