package pipeline

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rishi-platform/millrace/internal/redistest"
)

// load publishes to streams, from four callers, until it is stopped, and has a group handle what comes: each event that was accepted must be.
type load struct {
	t        *testing.T
	stop     chan struct{}
	callers  sync.WaitGroup
	accepted sync.Map // IDs
	refused  atomic.Int64
	handled  sync.Map     // IDs
	latest   atomic.Int64 // when the last one was handled, ns
	stored   atomic.Int64
}

func startLoad(t *testing.T, publisher, worker *Bus, streams ...string) *load {
	t.Helper()
	l := &load{t: t, stop: make(chan struct{})}
	var patterns []string
	for _, stream := range streams {
		patterns = append(patterns, stream+".*")
	}
	handle(t, worker, GroupConfig{Group: "g", Patterns: patterns}, AllStreams, func(_ context.Context, d *Delivery) error {
		l.handled.Store(d.Event.ID, true)
		l.latest.Store(time.Now().UnixNano())
		return nil
	})
	for caller := range 4 {
		l.callers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-l.stop:
					return
				default:
				}
				id := fmt.Sprintf("%d-%d", caller, i)
				r, err := publisher.Publish(t.Context(), Event{ID: id, Type: streams[i%len(streams)] + ".happened"})
				switch {
				case err == nil:
					l.accepted.Store(id, true)
					if r.Outcomes[0].Durability == Stored {
						l.stored.Add(1)
					}
				case r.Outcomes[0].Durability == Refused:
					l.refused.Add(1)
				}
			}
		})
	}
	l.awaitProgress("the first deliveries")
	return l
}

// awaitProgress waits until something is stored and handled that was published from now on.
func (l *load) awaitProgress(what string) {
	l.t.Helper()
	begun, stored := time.Now(), l.stored.Load()
	awaitFact(l.t, what, func() bool { return l.stored.Load() > stored+20 && l.latest.Load() > begun.UnixNano() })
}

// settle stops it and waits until all that was accepted is handled.
func (l *load) settle() {
	l.t.Helper()
	close(l.stop)
	l.callers.Wait()
	var missing []any
	n := 0
	awaitFact(l.t, "all that was accepted", func() bool {
		missing, n = nil, 0
		l.accepted.Range(func(id, _ any) bool {
			if n++; true {
				if _, there := l.handled.Load(id); !there {
					missing = append(missing, id)
				}
			}
			return true
		})
		return len(missing) == 0
	})
	l.t.Logf("%d accepted, %d refused", n, l.refused.Load())
}

// While a slot is moved to another shard, and after it, its stream is published to and handled.
func TestP27SlotMovesUnderLoad(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, false)
	stream := cluster.StreamOn(t, 0, "s")
	b, worker := openBus(t, Config{Redis: cluster.Options()}), openBus(t, Config{Redis: cluster.Options()})
	l := startLoad(t, b, worker, stream)
	cluster.MoveSlot(t, stream, cluster.Masters[1], func() { <-time.After(50 * time.Millisecond) })
	l.awaitProgress("what goes to the other shard")
	l.settle()
	if n := l.refused.Load(); n > 0 {
		t.Errorf("%d events were refused", n)
	}
}

// A master is killed: what was accepted is handled, whatever its replica had of it, and soon after the failover all goes on.
func TestP27MasterIsKilledUnderLoad(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, true)
	stream := cluster.StreamOn(t, 0, "s")
	b, worker := openBus(t, Config{Redis: cluster.Options(), SpoolDir: t.TempDir()}), openBus(t, Config{Redis: cluster.Options()})
	l := startLoad(t, b, worker, stream)
	cluster.Masters[0].Kill(t)
	cluster.AwaitFailover(t)
	l.awaitProgress("what goes to the replica")
	l.settle()
}

// The same with Sentinels.
func TestP27SentinelsFailOverUnderLoad(t *testing.T) {
	t.Parallel()
	s := redistest.StartSentinels(t)
	b, worker := openBus(t, Config{Redis: s.Options(), SpoolDir: t.TempDir()}), openBus(t, Config{Redis: s.Options()})
	l := startLoad(t, b, worker, "s")
	s.Master.Kill(t)
	s.AwaitFailover(t)
	l.awaitProgress("what goes to the replica")
	l.settle()
}
