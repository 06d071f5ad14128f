package group

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rishi-platform/millrace/internal/loop"
	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/wire"
)

// reader reads some of the streams of a consumer, each with its lane, in one command.
type reader struct {
	consumer *Consumer
	turn     atomic.Int32  // counts reads: streams have their turn one after the other
	lostOne  atomic.Bool   // a reply of twinLoop may have been lost
	brought  atomic.Int64  // when a read has brought anything last, in Unix nanoseconds
	heavy    atomic.Bool   // the last read has brought heavyRead bytes
	twin     chan struct{} // wakes twinLoop, since reads have become heavy
	// underway is held for reading while a read is under way, and for writing by reconcile: what a read of twinLoop has been given and not
	// brought yet would look unknown.
	underway sync.RWMutex

	// What follows is guarded by consumer.mu.
	streams []string
	busy    []string  // streams that the last read of all of them has brought as much of as it asked for
	keys    int       // of which it brought entries
	quiet   time.Time // when it had waited in vain last
	waited  []string  // for these streams
	trouble error     // of the last read; nil: it was answered
	since   time.Time // when the trouble began
}

const (
	// heldPage is how many IDs of its own pending list a consumer asks for at once.
	heldPage = 1000
	// quietFor is how long nothing is expected to have come since a read waited in vain: readers that wait for
	// nothing else read again at once.
	quietFor = 10 * time.Millisecond
	// nothingToRead is how long a reader waits that may read no stream now.
	nothingToRead = 100 * time.Millisecond
	// reconcileEvery is how often a consumer compares its pending list with what it holds, also where no reply was lost that it knows of.
	reconcileEvery = 10 * time.Second
)

// readLoop reads until the consumer stops. An error never ends it (RELIABILITY F08): it waits, with back-off, joins again where the
// group is gone, and says so once per change of state.
func (r *reader) readLoop() {
	c := r.consumer
	var backoff loop.Backoff
	var trouble []redisstream.Class // what has been complained of, since it was read last
	var reconciled time.Time        // zero: a reply may have been lost
	for {
		room := c.holdings.freeMuch(c.reading)
		if c.reading.Err() != nil {
			return
		}
		streams, err := r.joinAll(r.current())
		if r.lostOne.Swap(false) {
			reconciled = time.Time{}
		}
		if err == nil {
			reconciled, err = r.reconcileSome(streams, reconciled)
		}
		if err == nil {
			streams = r.readable(streams)
			if len(streams) == 0 { // all are refused, paused, or wait for a beat
				if !loop.Sleep(c.reading, nothingToRead) {
					return
				}
				continue
			}
		}
		if err == nil {
			err = r.read(r.plan(streams, room))
		}
		if c.reading.Err() != nil {
			return
		}
		r.note(err)
		if err == nil {
			if len(trouble) > 0 {
				c.logger.Info("group is read again", "streams", streams)
			}
			trouble = nil
			backoff.Reset()
			continue
		}
		reconciled = time.Time{}
		if class := redisstream.Classify(err); class == redisstream.Silent || class == redisstream.Away {
			c.budget.missed() // it may have been too large for the link, or for the server's output buffer
		}
		if redisstream.Classify(err) == redisstream.Silent {
			c.link.Suspect() // it finds out whether that is an outage
			c.logger.Debug("read got no answer in time and is repeated", "streams", streams, "err", err)
			continue
		}
		trouble = r.complain(trouble, err, streams)
		if !backoff.Wait(c.reading) {
			return
		}
	}
}

// twinLoop keeps a second read under way where a round trip takes long and order is not asked for: an entry that comes while the first
// read's reply travels need not wait until the next one has arrived (1.99 ms against 1.24 at 1,000 events a second and 1 ms). So it does
// where reads are heavy: one is composed and sent while the other one is taken apart (a tenth more events a second). Joining, reconciling
// and complaining are readLoop's.
func (r *reader) twinLoop() {
	c := r.consumer
	for c.reading.Err() == nil {
		streams := slices.DeleteFunc(r.current(), func(s string) bool { m := c.membership(s); return !c.isJoined(m) || !c.mayRead(m) })
		idle := time.Now().UnixNano()-r.brought.Load() > int64(twinPause)
		if idle || len(streams) == 0 || !r.isTwinned() {
			select {
			case <-r.twin:
			case <-time.After(twinPause):
			case <-c.reading.Done():
			}
			continue
		}
		room := c.holdings.freeMuch(c.reading)
		if room == 0 {
			return
		}
		if err := r.read(r.plan(streams, room)); err != nil {
			c.budget.missed()
			r.lostOne.Store(true)
			loop.Sleep(c.reading, twinPause)
		}
	}
}

const (
	// twinPause is how long twinLoop waits before it looks again whether it is needed.
	twinPause = time.Second
	// farAway is the round trip from which on a second read under way is worth its smaller batches. A check
	// that finds a near server asleep takes half as long.
	farAway = 700 * time.Microsecond
	// heavyRead is how many bytes one read has to bring for that, however near the server is.
	heavyRead = 16 << 10
)

// isTwinned reports whether a second read is worth it.
func (r *reader) isTwinned() bool {
	return r.consumer.twins && (r.heavy.Load() || r.consumer.link.RoundTrip() >= farAway)
}

// readPlan says what one read asks for.
type readPlan struct {
	streams []string
	of      []string // the same, in the order of the reader
	count   int
	inTurn  bool // count is that of all entries, and what there is at once is read first
	quiet   bool // a moment ago there was nothing
	wait    bool // for the first entry
	all     bool // these are all streams
}

// plan says what to read, where there is room for so many entries. COUNT holds for each key: so where
// there is room for fewer entries than there are streams they have their turn one after the other; and
// each second read is for those streams alone that have more than their share.
func (r *reader) plan(streams []string, room int) readPlan {
	c := r.consumer
	turn := int(r.turn.Add(1))
	c.mu.Lock()
	share := len(c.readers)
	busy := slices.DeleteFunc(slices.Clone(r.busy), func(s string) bool { return !slices.Contains(streams, s) })
	keys, quiet := r.keys, slices.Equal(streams, r.waited) && time.Since(r.quiet) < quietFor
	r.busy = nil
	c.mu.Unlock()
	if r.isTwinned() {
		share *= 2
	}
	bytes := budgetMost
	if c.host.Link != nil {
		bytes = max(budgetPerMS, int(c.link.RoundTrip()*budgetPerMS/time.Millisecond))
	}
	// A short way alone is no reason to read streams in turn: that has one entry of each.
	most, n := max(1, room/share), len(streams)
	room = max(c.budget.entriesWithin(most, bytes), min(n, c.budget.entries(most)))
	switch {
	case room < n:
		first := turn % n
		turned := append(slices.Clone(streams[first:]), streams[:first]...)
		return readPlan{streams: turned, of: streams, count: room, inTurn: true, quiet: quiet, wait: true, all: true}
	case len(busy) > 0 && len(busy) < n:
		return readPlan{streams: busy, count: max(1, room/len(busy))}
	default:
		return readPlan{streams: streams, of: streams, count: max(1, room/max(n, keys)), wait: true, all: true}
	}
}

// note keeps what became of the last read, for health.
func (r *reader) note(err error) {
	r.consumer.mu.Lock()
	defer r.consumer.mu.Unlock()
	if err != nil && r.trouble == nil {
		r.since = time.Now()
	}
	r.trouble = err
}

func (r *reader) current() []string {
	r.consumer.mu.Lock()
	defer r.consumer.mu.Unlock()
	return slices.Clone(r.streams)
}

// joinAll joins the groups that are not joined yet, or were lost, and returns the streams of the groups
// that are joined. One that the server refuses for good stops only itself.
func (r *reader) joinAll(streams []string) ([]string, error) {
	c := r.consumer
	joined := make([]string, 0, len(streams))
	for _, s := range streams {
		m := c.membership(s)
		c.mu.Lock()
		is, denied := m.joined, time.Since(m.denied) < deniedFor
		c.mu.Unlock()
		if !is && denied {
			continue
		}
		if !is {
			err := c.join(c.reading, s, false)
			if isDenied(err) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("join: %w", err)
			}
		}
		joined = append(joined, s)
	}
	return joined, nil
}

// readable returns those of the streams that are to be read now. A stream that can't be beaten at is
// asked for a beat instead: the server answers again.
func (r *reader) readable(streams []string) []string {
	c := r.consumer
	return slices.DeleteFunc(streams, func(s string) bool {
		m := c.membership(s)
		if !m.isFresh(time.Now()) {
			m.beatSoon()
		}
		return !c.mayRead(m)
	})
}

// read reads once, and gives what it has brought to deliverLoop.
func (r *reader) read(p readPlan) error {
	c := r.consumer
	r.underway.RLock()
	if c.cfg.Policy.PerSubject && c.hasStopped(p.streams) { // meanwhile: see letBack
		r.underway.RUnlock()
		return nil
	}
	highest := c.highest(p.streams)
	asked := time.Now()
	read, err := r.ask(p)
	var fresh []*Holding
	if len(read) > 0 {
		r.brought.Store(time.Now().UnixNano())
		r.learn(p, read)
		held := c.holdings.hold(c, read)
		n := len(held)
		if fresh = c.stillOurs(held, asked); len(fresh) < n {
			r.lostOne.Store(true)
		}
		fresh = c.withoutDone(fresh, p.streams, highest) // before another read begins, which is to know how far this one was
	}
	r.underway.RUnlock()
	switch redisstream.Classify(err) {
	case redisstream.Lost, redisstream.Denied:
		c.forget(p.streams) // joining tells which one it was
	}
	if len(fresh) > 0 {
		c.holdings.arrive(fresh, false)
	}
	return err
}

// hasStopped reports whether none of the streams is to be read any more.
func (c *Consumer) hasStopped(streams []string) bool {
	return !slices.ContainsFunc(streams, func(s string) bool { return c.mayRead(c.membership(s)) })
}

// ask asks the log for entries.
func (r *reader) ask(p readPlan) ([]redisstream.Delivered, error) {
	c := r.consumer
	if p.inTurn {
		if !p.quiet {
			read, err := c.log.ReadInTurn(c.reading, c.self, p.streams, p.count)
			if err != nil || len(read) > 0 {
				return read, err
			}
		}
		p.count = 1 // whoever waits gets what comes first, of one key
	}
	block := readBlock
	if !p.wait {
		block = 0
	}
	read, err := c.log.Read(c.reading, c.self, p.streams, p.count, block)
	if p.wait {
		c.mu.Lock()
		r.waited, r.quiet = nil, time.Now()
		if err == nil && len(read) == 0 {
			r.waited = p.of
		}
		c.mu.Unlock()
	}
	return read, err
}

// learn notes what a read has brought: how large entries are, and of which streams there is more.
func (r *reader) learn(p readPlan, read []redisstream.Delivered) {
	c := r.consumer
	bytes, keys := 0, 0
	var busy []string
	from := 0 // where the entries of a key begin
	for i := range read {
		bytes += read[i].Entry.Size()
		if last := i == len(read)-1; last || read[i+1].Stream != read[i].Stream || read[i+1].Lane != read[i].Lane {
			keys++
			if i+1-from >= p.count && (len(busy) == 0 || busy[len(busy)-1] != read[i].Stream) {
				busy = append(busy, read[i].Stream)
			}
			from = i + 1
		}
	}
	c.budget.brought(len(read), bytes)
	// A second read under way makes both smaller: it ends with reads of a quarter.
	if heavy := bytes >= heavyRead || bytes >= heavyRead/4 && r.heavy.Load(); !r.heavy.Swap(heavy) && heavy {
		select {
		case r.twin <- struct{}{}:
		default: // it knows
		}
	}
	if p.inTurn || !p.all {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r.busy, r.keys = busy, keys
}

// highest returns up to where each stream was read.
func (c *Consumer) highest(streams []string) []redisstream.ID {
	c.mu.Lock()
	defer c.mu.Unlock()
	ids := make([]redisstream.ID, len(streams))
	for i, s := range streams {
		ids[i] = c.streams[s].highest
	}
	return ids
}

// withoutDone notes up to where the streams are read by now. What a group gives out that was read before it has given out before: it had lost its
// state, or was set back. What was handled here then is acknowledged again, and not run again. A lane is never compared: what stands there again, a
// replay or a dead letter that was requeued, is to run again. Highest is from before the read.
func (c *Consumer) withoutDone(read []*Holding, streams []string, highest []redisstream.ID) []*Holding {
	again := false
	c.mu.Lock()
	var of *membership // of the stream that the entries are from
	var before redisstream.ID
	for _, h := range read {
		if h.ref.Lane {
			continue
		}
		if of == nil || h.ref.Stream != of.stream {
			of, before = c.streams[h.ref.Stream], highest[slices.Index(streams, h.ref.Stream)]
		}
		if h.ref.ID.Compare(of.highest) > 0 {
			of.highest = h.ref.ID
		}
		again = again || h.ref.ID.Compare(before) <= 0
	}
	c.mu.Unlock()
	if !again {
		return read
	}
	done := c.doneOf(read)
	fresh := make([]*Holding, 0, len(read))
	for i, h := range read {
		if !h.gone && !h.ref.Lane && done[i] {
			c.report(settlement{h: h})
			continue
		}
		fresh = append(fresh, h)
	}
	if n := len(read) - len(fresh); n > 0 {
		c.logger.Warn("deliveries came again that had been handled here: they are acknowledged, and not handled again", "deliveries", n,
			"hint", "where the group was set back on purpose, millrace replay gives events to it again")
	}
	return fresh
}

// doneOf returns which of the entries hold events that were handled here.
func (c *Consumer) doneOf(read []*Holding) []bool {
	events := make([]wire.Decoded, len(read))
	for i, h := range read {
		events[i] = c.wire.Decode(h.ref.Stream, *h.entry)
	}
	return c.done.which(events)
}

// reconcileSome reconciles those streams for which it is time, and returns when that was so last for all
// of them; zero: a reply may have been lost. Of those that rest, the beats tell whether something is
// pending here.
func (r *reader) reconcileSome(streams []string, last time.Time) (time.Time, error) {
	lost, now := last.IsZero(), time.Now()
	due := now.Sub(last) > reconcileEvery
	var of []*membership
	for _, s := range streams {
		m := r.consumer.membership(s)
		if m.stray.Swap(false) || lost || due && !m.resting.Load() {
			of = append(of, m)
		}
	}
	if due {
		last = now
	}
	if len(of) == 0 {
		return last, nil
	}
	r.underway.Lock()
	defer r.underway.Unlock()
	return last, r.reconcile(of, streams)
}

// reconcile takes what is pending with this consumer, but unknown to it: a reply that was lost has left it there, and nobody else may
// take it from a living consumer. Only IDs are listed; entries are asked for where they are unknown.
func (r *reader) reconcile(of []*membership, all []string) error {
	c := r.consumer
	for _, m := range of {
		s := m.stream
		var behind, laneBehind redisstream.ID
		for {
			m.takingOver.Lock()
			listed, fresh, err := c.holdings.holdListed(c, func() ([]redisstream.Delivered, error) {
				held, err := c.log.Held(c.reading, c.self, s, behind, laneBehind, heldPage)
				for i, d := range held {
					held[i].Count = suspectCount(d.Count)
					if d.Lane {
						laneBehind = d.ID
					} else {
						behind = d.ID
					}
				}
				return held, err
			})
			m.takingOver.Unlock()
			if err == nil {
				err = r.load(fresh, all)
			}
			if err != nil {
				if redisstream.Classify(err) == redisstream.Lost {
					c.forget(all)
				}
				return err
			}
			if listed < heldPage {
				break
			}
		}
	}
	return nil
}

// load asks for the entries of holdings of which only the IDs are known, as many at a time as the budget
// allows, and gives them to deliverLoop. Those that could not be asked for are not held any more.
func (r *reader) load(hs []*Holding, all []string) error {
	c := r.consumer
	for len(hs) > 0 {
		n := c.budget.entries(len(hs))
		refs := make([]redisstream.Ref, n)
		for i, h := range hs[:n] {
			refs[i] = h.ref
		}
		loaded, err := c.log.Load(c.reading, c.self.Group, refs)
		if err != nil {
			c.holdings.settled(hs...)
			return err
		}
		bytes := 0
		for i, d := range loaded {
			hs[i].entry, hs[i].gone = &d.Entry, d.Gone
			hs[i].Claimed = hs[i].delivered > 0 && !d.Gone // what is gone is pending still: TakeOver has not settled it
			bytes += d.Entry.Size()
		}
		c.budget.brought(n, bytes)
		// The read that had brought one again may have come while it was handled, and known it.
		c.holdings.arrive(c.withoutDone(hs[:n], all, c.highest(all)), false)
		hs = hs[n:]
	}
	return nil
}

// complain logs an error once per kind, and tells the link of an outage.
func (r *reader) complain(before []redisstream.Class, err error, streams []string) []redisstream.Class {
	c := r.consumer
	class := redisstream.Classify(err)
	if class == redisstream.Away {
		c.link.Suspect()
	}
	if slices.Contains(before, class) {
		return before
	}
	c.logger.Warn("group can't be read", "streams", streams, "err", c.shape("read group "+c.cfg.Group, "", err))
	return append(before, class)
}
