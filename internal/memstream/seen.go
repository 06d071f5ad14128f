package memstream

import (
	"context"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// seenEvent is what a stream in memory has appended once.
type seenEvent struct {
	redisstream.Appended
	print string
	until time.Time
}

// seenBound is how many keys of a stream are remembered in memory.
const seenBound = 100_000

func (m *Memory) AppendOnce(_ context.Context, stream string, _ redisstream.Writer, messages []redisstream.Message, seen []redisstream.Seen) (appended []redisstream.Appended, before uint64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.stream(stream)
	appended = make([]redisstream.Appended, len(messages))
	for i, one := range seen {
		if known, ok := s.seen[one.Key]; ok && time.Now().Before(known.until) {
			appended[i] = known.Appended
			appended[i].Conflict = known.print != "" && one.Print != "" && known.print != one.Print
			appended[i].Duplicate = !appended[i].Conflict
			continue
		}
		id, err := m.append(stream, redisstream.Writer{}, messages[i:i+1]) // no answer is lost on the way to memory: no mark is needed
		if err != nil {
			return nil, 0, err
		}
		appended[i] = redisstream.Appended{ID: id, UUID: messages[i].UUID}
		s.see(one, seenEvent{appended[i], one.Print, time.Now().Add(one.Window)})
	}
	return appended, 0, nil
}

// Claim remembers for what an idempotency key is used.
func (m *Memory) Claim(_ context.Context, key, what string, window time.Duration) (used string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if known, ok := m.claims.seen[key]; ok && time.Now().Before(known.until) {
		return known.print, nil
	}
	m.claims.see(redisstream.Seen{Key: key}, seenEvent{print: what, until: time.Now().Add(window)})
	return what, nil
}

func (s *streamState) see(one redisstream.Seen, what seenEvent) {
	if s.seen == nil {
		s.seen = map[string]seenEvent{}
	}
	if _, again := s.seen[one.Key]; !again {
		s.seenOrder = append(s.seenOrder, one.Key)
	}
	s.seen[one.Key] = what
	for len(s.seenOrder) > seenBound {
		if time.Now().Before(s.seen[s.seenOrder[0]].until) {
			s.seenLost++
		}
		delete(s.seen, s.seenOrder[0])
		s.seenOrder = s.seenOrder[1:]
	}
}
