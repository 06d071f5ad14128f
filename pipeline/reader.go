package pipeline

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// reader reads some of the streams of a consumer, each with its lane, in one command.
type reader struct {
	consumer *consumer
	streams  []string     // guarded by consumer.mu
	busy     atomic.Int32 // keys that the last read brought entries of
	lostOne  atomic.Bool  // a reply of twinLoop may have been lost
	// underway is held for reading while a read is under way, and for writing by reconcile: what a read of twinLoop has been given and not
	// brought yet would look unknown.
	underway sync.RWMutex
}

const (
	// heldPage is how many entries of its own pending list a consumer asks for at once.
	heldPage = 200
	// reconcileEvery is how often a consumer compares its pending list with what it holds, also where no reply was lost that it knows of.
	reconcileEvery = 10 * time.Second
)

// readLoop reads until the consumer stops. An error never ends it (RELIABILITY F08): it waits, with back-off, joins again where the
// group is gone, and says so once per change of state.
func (r *reader) readLoop() {
	c := r.consumer
	backoff := backoffFirst
	var trouble []redisstream.Class // what has been complained of, since it was read last
	var reconciled time.Time        // zero: a reply may have been lost
	for {
		room := c.window.freeMuch(c.reading)
		if c.reading.Err() != nil {
			return
		}
		streams, err := r.joinAll(r.current())
		if r.lostOne.Swap(false) {
			reconciled = time.Time{}
		}
		if err == nil && time.Since(reconciled) > reconcileEvery {
			r.underway.Lock()
			err = r.reconcile(streams)
			r.underway.Unlock()
			if err == nil {
				reconciled = time.Now()
			}
		}
		if err == nil && len(streams) == 0 {
			if !sleep(c.reading, backoffMost) { // all are refused
				return
			}
			continue
		}
		if err == nil {
			err = r.read(streams, r.count(room))
		}
		if c.reading.Err() != nil {
			return
		}
		if err == nil {
			if len(trouble) > 0 {
				c.logger.Info("group is read again", "streams", streams)
			}
			trouble, backoff = nil, backoffFirst
			continue
		}
		reconciled = time.Time{}
		if redisstream.Classify(err) == redisstream.Silent {
			c.bus.link.suspect() // it finds out whether that is an outage
			c.logger.Debug("read got no answer in time and is repeated", "streams", streams, "err", err)
			continue
		}
		trouble = r.complain(trouble, err, streams)
		if !sleep(c.reading, jittered(backoff)) {
			return
		}
		backoff = min(2*backoff, backoffMost)
	}
}

// twinLoop keeps a second read under way where a round trip takes long and order is not asked for: an entry that comes while the first
// read's reply travels need not wait until the next one has arrived (1.99 ms against 1.24 at 1,000 events a second and 1 ms). Joining,
// reconciling and complaining are readLoop's.
func (r *reader) twinLoop() {
	c := r.consumer
	for c.reading.Err() == nil {
		joined := c.memberships()
		streams := slices.DeleteFunc(r.current(), func(s string) bool { _, ok := joined[s]; return !ok || !c.mayRead(s) })
		if len(streams) == 0 || !c.bus.link.isFar() {
			sleep(c.reading, twinPause)
			continue
		}
		room := c.window.freeMuch(c.reading)
		if room == 0 {
			return
		}
		if err := r.read(streams, r.count(room)); err != nil {
			r.lostOne.Store(true)
			sleep(c.reading, twinPause)
		}
	}
}

const (
	// twinPause is how long twinLoop waits before it looks again whether it is needed.
	twinPause = time.Second
	// farAway is the round trip from which on a second read under way is worth its smaller batches.
	farAway = 300 * time.Microsecond
)

// count is how many entries of each key to ask for, where there is room for so many.
func (r *reader) count(room int) int {
	reads := r.consumer.readerCount()
	if r.consumer.twins && r.consumer.bus.link.isFar() {
		reads *= 2
	}
	return max(1, room/(max(1, int(r.busy.Load()))*reads))
}

func (r *reader) current() []string {
	r.consumer.mu.Lock()
	defer r.consumer.mu.Unlock()
	return slices.Clone(r.streams)
}

// joinAll joins the groups that are not joined yet, or were lost, and returns the streams that can be read. One that the server refuses
// for good stops only itself.
func (r *reader) joinAll(streams []string) ([]string, error) {
	c := r.consumer
	readable := make([]string, 0, len(streams))
	for _, s := range streams {
		c.mu.Lock()
		m := c.streams[s]
		joined, denied := m.joined, time.Since(m.denied) < deniedFor
		c.mu.Unlock()
		if !joined && denied || !c.mayRead(s) {
			continue
		}
		if !joined {
			err := c.join(c.reading, s, false)
			if errors.Is(err, ErrDenied) {
				continue
			}
			if err != nil {
				return nil, err
			}
		}
		readable = append(readable, s)
	}
	return readable, nil
}

// readerCount is how many readers fill the window.
func (c *consumer) readerCount() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.readers)
}

func (r *reader) read(streams []string, count int) error {
	c := r.consumer
	r.underway.RLock()
	highest := c.highest(streams)
	read, err := c.bus.log.Read(c.reading, c.self, streams, count, readBlock)
	brought := len(read) > 0
	if brought {
		r.busy.Store(int32(keysOf(read)))
		read = c.window.hold(read)
	}
	r.underway.RUnlock()
	switch redisstream.Classify(err) {
	case redisstream.Lost, redisstream.Denied:
		r.lost(streams) // joining tells which one it was
	}
	if brought {
		c.take(c.withoutDone(read, streams, highest))
	}
	return err
}

// highest returns up to where each stream was read.
func (c *consumer) highest(streams []string) []redisstream.ID {
	c.mu.Lock()
	defer c.mu.Unlock()
	ids := make([]redisstream.ID, len(streams))
	for i, s := range streams {
		ids[i] = c.streams[s].highest
	}
	return ids
}

// withoutDone notes up to where the streams are read by now. What a group gives out that was read before it has given out before: it had lost its
// state. What was handled here then is acknowledged again, and not run again. Highest is from before the read.
func (c *consumer) withoutDone(read []redisstream.Delivered, streams []string, highest []redisstream.ID) []redisstream.Delivered {
	again := false
	c.mu.Lock()
	var of *membership // of the stream that the entries are from
	var before redisstream.ID
	for i := range read {
		d := &read[i]
		if d.Lane {
			continue
		}
		if i == 0 || of == nil || d.Stream != read[i-1].Stream {
			of, before = c.streams[d.Stream], highest[slices.Index(streams, d.Stream)]
		}
		if d.ID.Compare(of.highest) > 0 {
			of.highest = d.ID
		}
		again = again || d.ID.Compare(before) <= 0
	}
	c.mu.Unlock()
	if !again {
		return read
	}
	done := c.doneOf(read)
	fresh := read[:0]
	acknowledged := 0
	for i, d := range read {
		if !d.Gone && done[i] {
			c.report(settlement{ref: d.Ref})
			acknowledged++
			continue
		}
		fresh = append(fresh, d)
	}
	if acknowledged > 0 {
		c.logger.Info("deliveries came again that had been handled here; they are acknowledged", "deliveries", acknowledged)
	}
	return fresh
}

// doneOf returns which of the entries hold events that were handled here.
func (c *consumer) doneOf(read []redisstream.Delivered) []bool {
	events := make([]decoded, len(read))
	for i, d := range read {
		events[i] = c.bus.decode(d.Stream, d.Entry)
	}
	return c.done.which(events)
}

// keysOf counts the keys that entries are from. COUNT holds for each key of a read, and most of them have nothing new most of the time.
func keysOf(read []redisstream.Delivered) int {
	n := 0
	for i := range read {
		if i == 0 || read[i].Stream != read[i-1].Stream || read[i].Lane != read[i-1].Lane {
			n++
		}
	}
	return n
}

// lost forgets that the groups were joined: which one of them is gone the server does not say.
func (r *reader) lost(streams []string) {
	c := r.consumer
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range streams {
		if m := c.streams[s]; m != nil {
			m.joined = false
		}
	}
}

// reconcile takes what is pending with this consumer, but unknown to it: a reply that was lost has left it there, and nobody else may
// take it from a living consumer.
func (r *reader) reconcile(streams []string) error {
	c := r.consumer
	for _, s := range streams {
		var behind, laneBehind redisstream.ID
		for {
			c.takingOver.Lock()
			listed, fresh, err := c.window.holdListed(func() ([]redisstream.Delivered, error) {
				held, err := c.bus.log.Held(c.reading, c.self, s, behind, laneBehind, heldPage)
				for _, d := range held {
					if d.Lane {
						laneBehind = d.ID
					} else {
						behind = d.ID
					}
				}
				return held, err
			})
			c.takingOver.Unlock()
			if err != nil {
				if redisstream.Classify(err) == redisstream.Lost {
					r.lost(streams)
				}
				return err
			}
			if listed == 0 {
				break
			}
			c.take(fresh)
		}
	}
	return nil
}

// complain logs an error once per kind, and tells the link of an outage.
func (r *reader) complain(before []redisstream.Class, err error, streams []string) []redisstream.Class {
	c := r.consumer
	class := redisstream.Classify(err)
	if class == redisstream.Away && c.bus.link != nil {
		c.bus.link.suspect()
	}
	if slices.Contains(before, class) {
		return before
	}
	c.logger.Warn("group can't be read", "streams", streams, "err", c.bus.redisError("read group "+c.cfg.Group, "", unwrapped(err)))
	return append(before, class)
}

// unwrapped returns what Redis said, where the error has its final shape already.
func unwrapped(err error) error {
	var known *RedisError
	if errors.As(err, &known) {
		return known.Err
	}
	return err
}
