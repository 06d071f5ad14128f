package memstream

import (
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// What follows puts a group into a state that takes long to come about. It is for tests.

// Bound sets how many deliveries of a group may be in its lane, be deferred, and wait for a consumer of
// their type. It is redisstream.GroupBound otherwise.
func (m *Memory) Bound(most int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.groupBound = most
}

// Give hands a message to a consumer as a read does whose answer is lost: it is pending there, and the
// consumer has not heard of it.
func (m *Memory) Give(c redisstream.Consumer, stream string, message redisstream.Message) redisstream.Ref {
	m.mu.Lock()
	defer m.mu.Unlock()
	ref := redisstream.Ref{Stream: stream, Lane: true}
	g := m.group(stream, c.Group)
	ref.ID = g.lane.next(1)
	entry := message.Entry(ref.ID)
	g.lane.add(entry)
	g.laneCursor = ref.ID
	g.pending[ref] = &pendingEntry{c.Name, entry, 1, time.Now()}
	return ref
}

// WaitsSince makes the first event of a type that waits for a consumer do so since the given time.
func (m *Memory) WaitsSince(stream, group, eventType string, since time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.group(stream, group).waiting[eventType][0].due = since
}

// Patterns is what a group takes.
func (m *Memory) Patterns(stream, group string) redisstream.Patterns {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.group(stream, group).patterns
}
