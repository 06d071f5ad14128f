package group

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// membership is a consumer's place in the group of one stream. It has a beat and a pause of its own, so
// that no stream can stop another one.
type membership struct {
	stream  string
	kick    chan struct{} // asks beatLoop for a beat now
	handled atomic.Int64  // deliveries since the last beat: all that a success costs
	kicked  atomic.Int64  // when burials asked for a beat last, in Unix nanoseconds
	anew    atomic.Bool   // what the record of failures says of this consumer is to be forgotten
	fresh   atomic.Int64  // until when deliveries may begin, in Unix nanoseconds; see freshMargin
	lapsed  atomic.Int64  // when it was found last that fresh had passed, likewise
	used    atomic.Int64  // when there was something of the stream here last, likewise
	resting atomic.Bool   // it has said that it rests: nothing begins; set with holdings.mu held
	stray   atomic.Bool   // something is pending here that this consumer does not know of
	// strangers says that a consumer which does not beat, another software's, holds something.
	strangers atomic.Bool
	dues      dues
	setbacks  setbacks
	// takingOver is held while something is taken over: reconcile would find it pending here, and not
	// know where it came from.
	takingOver sync.Mutex
	taking     atomic.Bool // takeOver is at work
	walk       typeWalk    // used by takeOver only

	passKick  chan struct{} // has passOnLoop look at once
	passAgain atomic.Bool   // it is to try what it could not do, whatever its back-off
	waitFull  bool          // used by passOnLoop only: it said that no more may wait for a consumer of their type

	// What follows is used by beatLoop only.
	watch   peerWatch
	failing bool   // there is a record of failures, as last heard (breaker.go)
	members int    // consumers that beat
	watched bool   // all of the peers are to be looked at
	said    string // of this consumer, last
	saidAt  time.Time

	// What follows is guarded by consumer.mu.
	joined   bool
	before   bool                 // it was joined at some time
	denied   time.Time            // when the server refused for good to let it join; zero: it did not
	patterns redisstream.Patterns // what the group takes, as last heard
	highest  redisstream.ID       // of the entries that were read first
	beaten   time.Time            // when a beat was answered last, or the first of those began that were not
	trouble  error                // of the last beat; nil: it was answered

	// What follows is guarded by holdings.mu.
	pause  pausing
	flow   streamFlow // the record of failures, as last heard
	parked []*Holding // they wait for the end of the pause
	aside  []*Holding // they wait for the next beat

	others  []other // they wait until they are passed on
	passing bool    // passOnLoop is at work
}

// isFresh reports whether this consumer is sure that it still has what it holds of the stream.
func (m *membership) isFresh(now time.Time) bool { return now.UnixNano() <= m.fresh.Load() }

// addStream joins the group of a stream and has it read. Where it can't be joined now, its reader
// tries again.
func (c *Consumer) addStream(ctx context.Context, stream string, fromEnd bool, read func(stream string)) error {
	c.mu.Lock()
	if c.streams[stream] == nil {
		m := &membership{
			stream: stream, kick: make(chan struct{}, 1), passKick: make(chan struct{}, 1), beaten: time.Now(),
		}
		m.dues.changed = make(chan struct{}, 1)
		m.used.Store(time.Now().UnixNano())
		m.pause.self = c.self.Name
		c.streams[stream] = m
		c.tending.Start("beat", func() { c.beatLoop(m) })
	}
	c.mu.Unlock()
	err := c.join(ctx, stream, fromEnd)
	read(stream)
	return err
}

// join takes the consumer's place in the group of one stream. One that is refused for good is said
// once, and left alone for a while.
func (c *Consumer) join(ctx context.Context, stream string, fromEnd bool) error {
	j := redisstream.Join{Stream: stream, Patterns: c.patterns(stream), From: c.begin(), FromEnd: fromEnd}
	m := c.membership(stream)
	asked := time.Now()
	joined, err := c.log.Join(ctx, c.self, j)
	c.mu.Lock()
	known, lost, ignored := !m.denied.IsZero(), false, false
	switch {
	case err == nil:
		lost = joined.Made && m.before
		ignored = !joined.Made && !m.before && c.cfg.Asked != ""
		m.joined, m.before, m.patterns, m.denied = true, true, joined.Patterns, time.Time{}
	case isDenied(err):
		m.denied = time.Now()
	}
	c.mu.Unlock()
	if err == nil && m.fresh.CompareAndSwap(0, asked.Add(beatEvery+freshMargin).UnixNano()) {
		m.beatSoon() // joining was the first beat; the second one tells of the peers
	}
	if err == nil || isDenied(err) {
		m.setbacks.note(stepJoin, err, time.Now())
	}
	if isDenied(err) && !known {
		c.logger.Error("group of a stream can't be joined; tried again from time to time", "stream", stream, "err", c.joinError(stream, err))
	}
	if err == nil {
		c.heardPause(m, joined.Paused, asked)
		m.passOnSoon(true) // the group may take something else now
	}
	if lost {
		c.logger.Error("group of a stream was lost and is made again; what it had not settled comes again",
			"stream", stream, "from", joined.From.String())
	}
	if ignored {
		c.logger.Info("group is there already: it goes on where it was, and From says nothing to it", "stream", stream, "from", c.cfg.Asked)
	}
	if err == nil && known {
		c.logger.Info("group of a stream is joined at last", "stream", stream)
	}
	return err
}

func (c *Consumer) joinError(stream string, err error) error {
	return c.shape("join group "+c.cfg.Group+" of", stream, err)
}

// forget notes that the group of a stream has to be joined anew: it may be gone.
func (c *Consumer) forget(streams []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range streams {
		if m := c.streams[s]; m != nil {
			m.joined = false
		}
	}
}

func cmpErr(first, err error) error {
	if first != nil {
		return first
	}
	return err
}

// joined returns the memberships of the streams whose groups are joined.
func (c *Consumer) joined() []*membership {
	c.mu.Lock()
	defer c.mu.Unlock()
	joined := make([]*membership, 0, len(c.streams))
	for _, m := range c.streams {
		if m.joined {
			joined = append(joined, m)
		}
	}
	return joined
}

func (c *Consumer) isJoined(m *membership) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return m.joined
}

// wasJoined reports whether the group was joined at some time.
func (c *Consumer) wasJoined(m *membership) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return m.before
}

func (c *Consumer) membership(stream string) *membership {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.streams[stream]
}

// setPatterns notes what the group takes now, also where the version is an older one: a server that lost
// its state begins anew.
func (c *Consumer) setPatterns(m *membership, p redisstream.Patterns) {
	c.mu.Lock()
	changed := m.patterns.Version != p.Version
	if changed {
		m.patterns = p
	}
	c.mu.Unlock()
	if changed {
		m.passOnSoon(true)
	}
}

func (c *Consumer) groupPatterns(m *membership) redisstream.Patterns {
	c.mu.Lock()
	defer c.mu.Unlock()
	return m.patterns
}
