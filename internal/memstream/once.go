package memstream

import (
	"context"
	"time"
)

// onceMarks are what a group in memory has done, the oldest at next once there are onceBound.
type onceMarks struct {
	marked map[string]time.Time // until when
	ring   []string
	next   int
}

const onceBound = 100_000

func (m *Memory) Marked(_ context.Context, stream, group, key string) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.group(stream, group)
	return g != nil && time.Now().Before(g.once.marked[key]), nil
}

func (m *Memory) Mark(_ context.Context, stream, group, key string, ttl time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if g := m.group(stream, group); g != nil {
		g.once.mark(key, time.Now().Add(ttl))
	}
	return nil
}

func (o *onceMarks) mark(key string, until time.Time) {
	_, known := o.marked[key]
	switch {
	case known:
	case len(o.ring) < onceBound:
		if o.marked == nil {
			o.marked = map[string]time.Time{}
		}
		o.ring = append(o.ring, key)
	default:
		delete(o.marked, o.ring[o.next])
		o.ring[o.next] = key
		o.next = (o.next + 1) % onceBound
	}
	o.marked[key] = until
}
