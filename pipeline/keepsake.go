package pipeline

import (
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/spool"
)

// keepsake is what is drained and stays on disk for a while: until the marks of its appends were seen in Redis once more, keepDrained after they were
// made. A Redis that comes back, takes 30,000 events and dies again has forgotten them; they are restored from here, whatever their number. It is
// guarded by the lock of spooling.
//
// Where the disk is short of room nothing is kept.
type keepsake struct {
	drained []drainedUpTo // the oldest first
	release uint64        // up to here everything may go
	readers int           // that restore from here: nothing goes meanwhile
}

// drainedUpTo says that everything up to a record was drained at a time.
type drainedUpTo struct {
	number uint64
	at     time.Time
}

// keepDrained is how long after the drain the marks must be seen once more: a Redis that writes its log each second has it on disk by then.
const keepDrained = 5 * time.Second

// mayGo notes that everything up to a record is drained, and returns up to which its room may be given back.
func (s *spooling) mayGo(drained uint64) uint64 {
	stats := s.log.Stats()
	s.mu.Lock()
	defer s.mu.Unlock()
	k := &s.keepsake
	if s != s.bus.spool || stats.Err != nil || stats.Bytes > stats.Max/2 { // one that is adopted is given up when it is empty
		return drained
	}
	if n := len(k.drained); drained > k.release && (n == 0 || drained > k.drained[n-1].number) {
		k.drained = append(k.drained, drainedUpTo{drained, time.Now()})
	}
	return min(drained, k.release)
}

// marksSeen notes that all marks were found in Redis by a look that began at a time. What was drained long enough before may go; at the end, all.
func (s *spooling) marksSeen(begun time.Time, ending bool) {
	if s == nil {
		return
	}
	s.mu.Lock()
	k := &s.keepsake
	for k.readers == 0 && len(k.drained) > 0 && (ending || k.drained[0].at.Add(keepDrained).Before(begun)) {
		k.release = k.drained[0].number
		k.drained = k.drained[1:]
	}
	release := k.release
	s.mu.Unlock()
	if ending {
		_ = s.log.Drained(release) // what stays is drained again by the next process, which finds its mark
		return
	}
	s.wake()
}

// isReleased reports whether there is more that may go than what has gone.
func (s *spooling) isReleased(gone uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keepsake.release > gone
}

// holdKept keeps what is drained until the function that it returns is called.
func (s *spooling) holdKept() (let func()) {
	if s == nil {
		return func() {}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keepsake.readers++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.keepsake.readers--
	}
}

// keptEvents calls f with the events of a gap, some at a time, as far as they are still on disk, and reports whether all are.
func (s *spooling) keptEvents(stream string, g gap, f func([]forgottenEvent)) (complete bool) {
	if s == nil {
		return false
	}
	complete = s.log.Stats().First <= g.from
	reader := s.log.Reader()
	defer reader.Close()
	reader.Seek(g.from)
	var events []forgottenEvent
	found, bytes := false, 0
	flush := func() {
		if len(events) > 0 {
			f(events)
			events, bytes = nil, 0
		}
	}
	defer flush()
	for {
		records, err := reader.Read(drainRecords)
		if err != nil {
			if _, damage := err.(spool.Damage); damage {
				complete = false
				continue
			}
			return false
		}
		if len(records) == 0 {
			return complete && found
		}
		for _, one := range records {
			if one.Number > g.to {
				return complete && found
			}
			r, err := decodeSpooled(one.Data)
			if err != nil || r.stream != stream || one.ID != g.writer || r.doubtful.Name != "" || r.discarded > 0 {
				continue
			}
			r.id, r.number = one.ID, one.Number
			messages, seen := s.messages(&r)
			for i := range messages {
				e := forgottenEvent{message: messages[i], noted: r.at}
				if seen[i].Key != "" {
					e.seen = &redisstream.Seen{Key: seen[i].Key, Window: seen[i].Window, Print: seen[i].Print}
				}
				events, found = append(events, e), true
				bytes += len(messages[i].Payload)
			}
			if len(events) >= namedAtOnce || bytes >= flushBytes {
				flush()
			}
		}
	}
}
