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
