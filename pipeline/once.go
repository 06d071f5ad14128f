package pipeline

import (
	"context"
	"time"
)

// OnceStore remembers which events a group has done, by identity: source and ID together. handlers.Once works with it; Bus.OnceStore
// makes one, and a store of your own (the database that the effect goes to, say) does as well. Its methods are called by many goroutines.
type OnceStore interface {
	// Done reports whether the delivery's group has marked its event.
	Done(ctx context.Context, d *Delivery) (bool, error)
	// Mark remembers that the delivery's group has done its event.
	Mark(ctx context.Context, d *Delivery) error
}

// OnceFor is how long Bus.OnceStore remembers an event unless it is told.
const OnceFor = 24 * time.Hour

// OnceStore remembers in Redis which events a group has done, for the given time (0: OnceFor): a key per event, beside the stream that the
// event stands in, of some 150 bytes of the server's memory. Without Redis the last 100,000 events of each group are remembered in memory,
// as long as the process lives.
func (b *Bus) OnceStore(remember time.Duration) OnceStore {
	setDefault(&remember, OnceFor)
	return &onceStore{b, remember}
}

type onceStore struct {
	bus      *Bus
	remember time.Duration
}

func (s *onceStore) Done(ctx context.Context, d *Delivery) (bool, error) {
	done, err := s.bus.log.Marked(ctx, d.Stream, d.Group, onceKey(&d.Event))
	return done, s.bus.redisError("look whether an event is done", d.Stream, err)
}

func (s *onceStore) Mark(ctx context.Context, d *Delivery) error {
	err := s.bus.log.Mark(ctx, d.Stream, d.Group, onceKey(&d.Event), s.remember)
	return s.bus.redisError("remember that an event is done", d.Stream, err)
}

// onceKey stands for the identity of an event: 132 bits of a hash, since IDs of others may be long, and two events must never share one.
func onceKey(e *Event) string {
	return short("%s\x00%s", e.Source, e.ID)
}

// onceMarks are what a group in memory has done, the oldest at next once there are onceBound.
type onceMarks struct {
	marked map[string]time.Time // until when
	ring   []string
	next   int
}

const onceBound = 100_000

func (m *memory) Marked(_ context.Context, stream, group, key string) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.group(stream, group)
	return g != nil && time.Now().Before(g.once.marked[key]), nil
}

func (m *memory) Mark(_ context.Context, stream, group, key string, ttl time.Duration) error {
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
