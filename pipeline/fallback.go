package pipeline

import (
	"slices"
	"strings"
	"time"

	"github.com/rishi-platform/millrace/internal/pattern"
	"github.com/rishi-platform/millrace/internal/redisstream"
)

// Fallback says what the groups of this process do with events that are accepted while Redis is away.
type Fallback string

const (
	// Wait leaves them until they are in Redis.
	Wait Fallback = "wait"
	// Local lets the groups of this process handle them from the spool: once, and those that fail, or whose handlers are elsewhere, when they
	// are in Redis. An event that may have reached Redis waits as well, with those of its subject behind it, and so does what a process before this one has spooled. What was handled says so when it
	// comes to Redis, and is not handled again, unless the process dies before. Not kept: the order against older events of the
	// subject that are still in Redis, nor that behind one that failed here, with Policy.PerSubject either. What goes by PublishOptions.Once or Key waits
	// too, since only Redis knows whether it is new. Groups of other software, which do not know the mark, get it again.
	Local Fallback = "local"
)

// fallback is what the groups of this process have had from the spool. It is guarded by the lock of spooling.
type fallback struct {
	changed chan struct{}       // there while somebody waits; closed when there may be something to handle
	tried   map[string]*numbers // by group: records that it was given
	handled map[string]*numbers // by group: of them, those that it has handled
	claims  map[claim]bool      // whether its handler has begun
	running map[uint64]int      // by record: its claims
	sending map[string]uint64   // by stream: up to which record they are on their way to Redis, or may be there
	sentTo  uint64              // up to here all are: those that a process before this one has left
}

// claim is a record that a consumer has, and has not ended yet.
type claim struct {
	number   uint64
	consumer *consumer
}

// claim gives a record to a consumer, unless its group has had it or it is on its way to Redis.
func (s *spooling) claim(r *spooled, c *consumer) bool {
	number := r.number
	if s.bus.State() != StateSpooling {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f := &s.fallback
	if s.hasSent(r) || !numbersOf(&f.tried, c.cfg.Group).add(number) {
		return false
	}
	if f.claims == nil {
		f.claims, f.running = map[claim]bool{}, map[uint64]int{}
	}
	f.claims[claim{number, c}] = false
	f.running[number]++
	return true
}

func numbersOf(m *map[string]*numbers, group string) *numbers {
	if *m == nil {
		*m = map[string]*numbers{}
	}
	if (*m)[group] == nil {
		(*m)[group] = &numbers{}
	}
	return (*m)[group]
}

// start begins to handle a claim, unless the drain has taken it back.
func (s *spooling) start(number uint64, c *consumer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	of := claim{number, c}
	if _, there := s.fallback.claims[of]; !there {
		return false
	}
	s.fallback.claims[of] = true
	return true
}

// finish ends a claim.
func (s *spooling) finish(number uint64, c *consumer, handled bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(claim{number, c}, handled)
	s.wake()
}

// end ends a claim. The lock is held.
func (s *spooling) end(of claim, handled bool) {
	f := &s.fallback
	if _, there := f.claims[of]; !there {
		return
	}
	delete(f.claims, of)
	if f.running[of.number]--; f.running[of.number] == 0 {
		delete(f.running, of.number)
	}
	if handled {
		numbersOf(&f.handled, of.consumer.cfg.Group).add(of.number)
	}
}

// abandon ends all claims of a consumer that has ended.
func (s *spooling) abandon(c *consumer) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for of := range s.fallback.claims {
		if of.consumer == c {
			s.end(of, false)
		}
	}
	s.wake()
}

// isSent reports whether a record is on its way to Redis, or may be there.
func (s *spooling) isSent(r *spooled) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hasSent(r)
}

// hasSent is isSent. The lock is held.
func (s *spooling) hasSent(r *spooled) bool {
	return r.number <= max(s.fallback.sentTo, s.fallback.sending[r.stream])
}

// reserve takes those records, from the first one on, that no group is handling now: they are on their way to Redis. A claim that still waits for its
// turn, behind a paused subject perhaps, is taken back.
func (s *spooling) reserve(batch []*spooled) []*spooled {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, r := range batch {
		if s.fallback.running[r.number] > 0 {
			for of, begun := range s.fallback.claims {
				if of.number == r.number && !begun {
					s.end(of, false)
				}
			}
		}
		if s.fallback.running[r.number] > 0 {
			return batch[:i]
		}
		s.fallback.sending[r.stream] = max(s.fallback.sending[r.stream], r.number)
	}
	return batch
}

// handledBy names the groups that have handled a record, separated by commas.
func (s *spooling) handledBy(number uint64) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var groups []string
	for group, handled := range s.fallback.handled {
		if handled.has(number) {
			groups = append(groups, group)
		}
	}
	slices.Sort(groups)
	return strings.Join(groups, ",")
}

// forgetHandled forgets what was handled of records that are in Redis. The lock is held.
func (s *spooling) forgetHandled(upTo uint64) {
	for _, of := range []map[string]*numbers{s.fallback.tried, s.fallback.handled} {
		for _, n := range of {
			n.forget(upTo)
		}
	}
}

// news returns what is closed when there may be something to handle.
func (s *spooling) news() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fallback.changed == nil {
		s.fallback.changed = make(chan struct{})
	}
	return s.fallback.changed
}

// tell wakes the groups that wait for records.
func (s *spooling) tell() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fallback.changed != nil {
		close(s.fallback.changed)
		s.fallback.changed = nil
	}
}

// fallsBack reports whether the group handles what is in the spool while Redis is away.
func (c *consumer) fallsBack() bool { return c.bus.spool != nil && c.bus.cfg.Fallback == Local }

// fallbackRecords is how many records of the spool a consumer reads at once.
const fallbackRecords = 64

// fallbackLoop handles what is in the spool while Redis is away.
func (c *consumer) fallbackLoop() {
	s := c.bus.spool
	reader := s.log.Reader()
	defer reader.Close()
	blocked := map[subjectKey]bool{} // subjects whose order would be lost
	concerns := map[string]bool{}    // streams
	for c.reading.Err() == nil {
		news := s.news()
		if c.bus.State() != StateSpooling {
			reader.Close()   // a segment that is open keeps its room on the disk
			if s.isEmpty() { // what has blocked them is in Redis
				clear(blocked)
			}
			c.awaitNews(news)
			continue
		}
		room := c.holdings.free(c.reading)
		if room == 0 {
			return
		}
		records, err := reader.Read(min(room, fallbackRecords))
		if s.isDamage(err) {
			continue
		}
		if err != nil { // a segment that is drained meanwhile is removed; the drain complains of all else
			reader.Close()
			c.awaitNews(nil)
			continue
		}
		if len(records) == 0 {
			c.awaitNews(news)
			continue
		}
		var mine []redisstream.Delivered
		for _, record := range records {
			stream, ok := spooledStream(record.Data)
			concerned, known := concerns[string(stream)]
			if !known && ok {
				concerned = c.concerns(string(stream))
				concerns[string(stream)] = concerned
			}
			if !concerned {
				continue
			}
			r, err := decodeSpooled(record.Data)
			if err != nil {
				continue // the drain complains
			}
			if r.discarded > 0 {
				continue
			}
			r.id, r.number = record.ID, record.Number
			if d, ok := c.fromSpool(&r, blocked); ok {
				mine = append(mine, d)
			}
		}
		c.holdings.arrive(c.holdings.hold(c, mine), false)
	}
}

func (c *consumer) awaitNews(news <-chan struct{}) {
	timer := time.NewTimer(checkSoon)
	defer timer.Stop()
	select {
	case <-news:
	case <-timer.C:
	case <-c.reading.Done():
	}
}

// concerns reports whether the consumer may have something to handle of a stream.
func (c *consumer) concerns(stream string) bool {
	return c.topic == stream || c.topic == AllStreams && len(pattern.Of(c.cfg.Patterns, stream)) > 0
}

// fromSpool returns the delivery of a record of a stream that concerns the consumer, if it is to handle that now.
func (c *consumer) fromSpool(r *spooled, blocked map[subjectKey]bool) (d redisstream.Delivered, mine bool) {
	if c.bus.spool.isDrained(r) { // its room is not given back yet
		return d, false
	}
	of := subjectKey{r.stream, r.events[0].subject}
	if !r.certain() {
		for _, e := range r.events {
			if e.subject != "" {
				blocked[subjectKey{r.stream, e.subject}] = true
			}
		}
		return d, false
	}
	entry := r.events[0].marked(r.id, r.number, "").Entry(redisstream.ID{MS: r.number})
	event := c.bus.decode(r.stream, entry)
	if event.Origin != OriginDrain || blocked[of] || !c.handles(event.Type) {
		return d, false
	}
	if c.bus.spool.isSent(r) || c.isPaused(r.stream) || c.sick() != nil {
		if of.subject != "" {
			blocked[of] = true
		}
		return d, false
	}
	if !c.bus.spool.claim(r, c) {
		return d, false
	}
	return redisstream.Delivered{Ref: redisstream.Ref{Stream: r.stream, Spool: true, ID: entry.ID}, Entry: entry}, true
}

// isPaused reports whether the group takes nothing of a stream now.
func (c *consumer) isPaused(stream string) bool {
	m := c.membership(stream)
	if m == nil {
		return false
	}
	c.holdings.mu.Lock()
	defer c.holdings.mu.Unlock()
	return m.pause.isPaused()
}

// spoolMembership is the place of a delivery that comes from the spool: no group of Redis knows of it, no lease can be lost.
func spoolMembership() *membership {
	m := &membership{}
	m.fresh.Store(1<<63 - 1)
	return m
}
