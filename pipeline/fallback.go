package pipeline

import (
	"slices"
	"strings"

	"github.com/rishi-platform/millrace/internal/group"
	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/spool"
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
	consumer redisstream.Consumer
}

// fallbackSpool is the spool as the consumers of this process see it.
type fallbackSpool struct{ *spooling }

// IsSpooling reports whether Redis is away, IsEmpty whether it has all that was spooled.
func (s fallbackSpool) IsSpooling() bool      { return s.bus.State() == StateSpooling }
func (s fallbackSpool) IsEmpty() bool         { return s.isEmpty() }
func (s fallbackSpool) News() <-chan struct{} { return s.news() }

// IsDrained reports whether Redis has a record, though its room may not be given back yet.
func (s fallbackSpool) IsDrained(r *group.SpoolRecord) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hasDrained(r.Stream, r.Number)
}

// IsSent reports whether a record is on its way to Redis, or may be there.
func (s fallbackSpool) IsSent(r *group.SpoolRecord) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hasSent(r.Stream, r.Number)
}

// Claim gives a record to a consumer, unless its group has had it or it is on its way to Redis.
func (s fallbackSpool) Claim(r *group.SpoolRecord, c redisstream.Consumer) bool {
	number := r.Number
	if !s.IsSpooling() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f := &s.fallback
	if s.hasSent(r.Stream, number) || !numbersOf(&f.tried, c.Group).add(number) {
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

// Start begins to handle a claim, unless the drain has taken it back.
func (s fallbackSpool) Start(number uint64, c redisstream.Consumer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	of := claim{number, c}
	if _, there := s.fallback.claims[of]; !there {
		return false
	}
	s.fallback.claims[of] = true
	return true
}

// Finish ends a claim.
func (s fallbackSpool) Finish(number uint64, c redisstream.Consumer, handled bool) {
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
		numbersOf(&f.handled, of.consumer.Group).add(of.number)
	}
}

// Abandon ends all claims of a consumer that has ended.
func (s fallbackSpool) Abandon(c redisstream.Consumer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for of := range s.fallback.claims {
		if of.consumer == c {
			s.end(of, false)
		}
	}
	s.wake()
}

// hasSent reports whether a record is on its way to Redis, or may be there. The lock is held.
func (s *spooling) hasSent(stream string, number uint64) bool {
	return number <= max(s.fallback.sentTo, s.fallback.sending[stream])
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

// fallbackRecords is how many records of the spool a consumer reads at once.
const fallbackRecords = 64

// Reader reads the records of the streams that concern a consumer.
func (s fallbackSpool) Reader(concerns func(stream string) bool) group.SpoolReader {
	return &fallbackReader{spool: s.spooling, reader: s.log.Reader(), concerns: concerns, known: map[string]bool{}}
}

type fallbackReader struct {
	spool    *spooling
	reader   *spool.Reader
	concerns func(stream string) bool
	known    map[string]bool // what it said of streams
}

func (r *fallbackReader) Close() { r.reader.Close() }

// Read returns the next records that concern the consumer.
func (r *fallbackReader) Read(most int) (records []group.SpoolRecord, more bool, err error) {
	read, err := r.reader.Read(min(most, fallbackRecords))
	if r.spool.isDamage(err) {
		return nil, true, nil
	}
	if err != nil { // a segment that is drained meanwhile is removed; the drain complains of all else
		r.reader.Close()
		return nil, false, err
	}
	for _, record := range read {
		stream, ok := spooledStream(record.Data)
		concerned, known := r.known[string(stream)]
		if !known && ok {
			concerned = r.concerns(string(stream))
			r.known[string(stream)] = concerned
		}
		if !concerned {
			continue
		}
		one, err := decodeSpooled(record.Data)
		if err != nil || one.discarded > 0 {
			continue // the drain complains
		}
		one.id, one.number = record.ID, record.Number
		records = append(records, one.forFallback())
	}
	return records, len(read) > 0, nil
}

// forFallback is a record as consumers get it.
func (s *spooled) forFallback() group.SpoolRecord {
	r := group.SpoolRecord{Stream: s.stream, Number: s.number, Certain: s.certain()}
	for _, e := range s.events {
		r.Subjects = append(r.Subjects, e.subject)
	}
	if r.Certain {
		r.Entry = s.events[0].marked(s.id, s.number, "").Entry(redisstream.ID{MS: s.number})
	}
	return r
}
