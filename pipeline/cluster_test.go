package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
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
					t.Logf("refused: %v", err)
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

// One shard of three is away: the streams of the others are published to, handled, and drained; its own are spooled, and health names it. When it is
// back what was spooled is there.
func TestP11ShardThatIsAwayHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, false, "--appendonly", "yes", "--appendfsync", "always")
	dead, alive := cluster.StreamOn(t, 0, "dead"), cluster.StreamOn(t, 1, "alive")
	registry := cluster.Owner(t, "millrace:registry:streams")
	if registry == cluster.Masters[0] {
		t.Log("the registry is away as well")
	}
	// What waits for the outage of an append would wait for a minute.
	b := openBus(t, Config{Redis: cluster.Options(), SpoolDir: t.TempDir(), OutageAfter: time.Minute})
	worker := openBus(t, Config{Redis: cluster.Options()})
	l := startLoad(t, b, worker, alive)
	publish(t, b, Event{ID: "before", Type: dead + ".happened"})
	cluster.Masters[0].Kill(t)
	awaitFact(t, "that its streams are spooled", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		r, err := b.Publish(ctx, Event{Type: dead + ".happened"})
		return err == nil && r.Outcomes[0].Durability == Spooled
	})
	l.awaitProgress("what goes to another shard")
	awaitFact(t, "that health names it", func() bool {
		h := b.Health(t.Context())
		return h.Status == StatusDegraded && h.State == StateDraining && slices.ContainsFunc(h.Problems, func(p Problem) bool {
			return p.Code == "shard-away" && strings.Contains(p.Text, cluster.Masters[0].Addr()) && strings.Contains(p.Text, dead)
		})
	})
	r := publish(t, b, Event{Type: dead + ".happened"}, Event{Type: alive + ".other"})
	if r.Outcomes[0].Durability != Spooled || r.Outcomes[1].Durability != Stored {
		t.Errorf("one call: %+v", r.Outcomes)
	}
	if err := b.Ready(); err != nil {
		t.Errorf("it is not ready: %v", err)
	}
	l.settle()
	if n := l.refused.Load(); n > 0 {
		t.Errorf("%d events of another shard were refused", n)
	}
	cluster.Masters[0].StartAgain(t)
	awaitFact(t, "the drain", func() bool { return b.State() == StateDurable && b.Health(t.Context()).Status == StatusHealthy })
	if n := len(records(t, b, Query{Streams: []string{dead}, Limit: 1000})); n < 3 {
		t.Errorf("%d events of the stream that was away", n)
	}
}

// Without a spool its events are refused, and say why; those of the others are not. A new stream is published to though the registry is away.
func TestP11RegistryThatIsAwayHoldsUpNoStream(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, false)
	registry := slices.Index(cluster.Masters, cluster.Owner(t, "millrace:registry:streams"))
	b := openBus(t, Config{Redis: cluster.Options(), OutageAfter: 3 * time.Second})
	known := cluster.StreamOn(t, (registry+1)%3, "known")
	publish(t, b, Event{Type: known + ".happened"})
	cluster.Masters[registry].Kill(t)
	fresh := cluster.StreamOn(t, (registry+1)%3, "fresh")
	for range 3 {
		publish(t, b, Event{Type: known + ".happened"}, Event{Type: fresh + ".happened"})
	}
	dead := cluster.StreamOn(t, registry, "dead")
	awaitFact(t, "the refusal", func() bool {
		_, err := b.Publish(t.Context(), Event{Type: dead + ".happened"})
		return errors.Is(err, ErrUnavailable)
	})
	h := b.Health(t.Context())
	if h.Status == StatusHealthy || !slices.ContainsFunc(h.Problems, func(p Problem) bool { return p.Code == "streams-unregistered" && strings.Contains(p.Text, fresh) }) {
		t.Errorf("%s: %+v", h.Status, h.Problems)
	}
	cluster.Masters[registry].StartAgain(t)
	awaitFact(t, "the registry", func() bool {
		streams, err := b.Streams(t.Context())
		return err == nil && slices.Contains(streams, fresh)
	})
}

// However much is spooled for a shard that is away, what was spooled for one that is back is drained.
func TestP11DrainGoesOnBesideAShardThatIsAway(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, false)
	dead, back := cluster.StreamOn(t, 0, "dead"), cluster.StreamOn(t, 1, "back")
	b := openBus(t, Config{Redis: cluster.Options(), SpoolDir: t.TempDir()})
	cluster.Masters[0].Kill(t)
	cluster.Masters[1].Kill(t)
	events := make([]Event, 500)
	for i := range events {
		events[i] = Event{Type: dead + ".happened"}
	}
	for range 2 * windowRecords / len(events) {
		publish(t, b, events...)
	}
	if r := publish(t, b, Event{Type: back + ".happened"}); r.Outcomes[0].Durability != Spooled {
		t.Fatalf("%+v", r.Outcomes)
	}
	cluster.Masters[1].StartAgain(t)
	client := cluster.Client(t)
	awaitFact(t, "the stream of the shard that is back", func() bool { return client.XLen(t.Context(), back).Val() == 1 })
	if b.State() != StateDraining {
		t.Errorf("the bus is %s", b.State())
	}
}

// A shard from which nothing comes at all takes no other one along, however often it is the one that is asked which shards there are.
func TestP11FrozenShardTakesNoOtherAlong(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, false)
	frozen, alive := cluster.StreamOn(t, 0, "frozen"), cluster.StreamOn(t, 1, "alive")
	var away atomic.Int32
	b := openBus(t, Config{Redis: cluster.Options(), SpoolDir: t.TempDir(), Hooks: Hooks{State: func(_, to State, _ error) {
		if to.isAway() {
			away.Add(1)
		}
	}}})
	publish(t, b, Event{Type: frozen + ".happened"}, Event{Type: alive + ".happened"})
	cluster.Masters[0].Freeze(t)
	awaitFact(t, "that its streams are spooled", func() bool {
		r, err := b.Publish(t.Context(), Event{Type: frozen + ".happened"})
		return err == nil && r.Outcomes[0].Durability == Spooled
	})
	for range 10 { // as long as it takes to ask them all, several times
		results := b.link.look(t.Context(), checkTimeout)
		for name, r := range results {
			if r.err != nil && string(name) != cluster.Masters[0].Addr() {
				t.Fatalf("shard %s: %v", name, r.err)
			}
		}
	}
	if n := away.Load(); n > 0 {
		t.Errorf("the bus was away %d times", n)
	}
	if r := publish(t, b, Event{Type: alive + ".happened"}); r.Outcomes[0].Durability != Stored {
		t.Errorf("%+v", r.Outcomes)
	}
	cluster.Masters[0].Thaw(t)
	awaitState(t, b, StateDurable)
}

// A shard that takes no events is named, and so is one that is away by a bus that only looks.
func TestP11HealthOfEachShard(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, false)
	registry := slices.Index(cluster.Masters, cluster.Owner(t, "millrace:registry:streams"))
	full, dead := (registry+1)%3, (registry+2)%3
	b, looks := openBus(t, Config{Redis: cluster.Options()}), openBus(t, Config{Redis: cluster.Options(), RedisOnly: true, NoPublish: true})
	problem := func(b *Bus, code string, shard int) func() bool {
		return func() bool {
			h := b.Health(t.Context())
			return h.Status != StatusHealthy && slices.ContainsFunc(h.Problems, func(p Problem) bool {
				return p.Code == code && strings.Contains(p.Text, cluster.Masters[shard].Addr())
			})
		}
	}
	admin := cluster.Masters[full].Client(t)
	if err := admin.ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	awaitFact(t, "the shard without memory", problem(b, problemRefused, full))
	if err := b.Ready(); err != nil {
		t.Errorf("other shards take events: %v", err)
	}
	cluster.Masters[dead].Kill(t)
	awaitFact(t, "the shard that is away", problem(b, "shard-away", dead))
	awaitFact(t, "the shard that is away, for who looks", problem(looks, "shard-away", dead))
}

// What one shard has forgotten is restored while another one is away, whose streams come first.
func TestP11ForgottenEventsAreFoundBesideAShardThatIsAway(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, false)
	dead, back := cluster.StreamOn(t, 0, "a"), cluster.StreamOn(t, 1, "b")
	b := openBus(t, Config{Redis: cluster.Options(), SpoolDir: t.TempDir()})
	publish(t, b, Event{ID: "dead", Type: dead + ".happened"})
	publish(t, b, Event{ID: "back", Type: back + ".happened"})
	cluster.Masters[0].Kill(t)
	awaitFact(t, "the shard that is away", func() bool { return b.link.partly.Load() != nil })
	cluster.Masters[1].Flush(t)
	b.suspectRewind()
	client := cluster.Client(t)
	awaitFact(t, "the stream of the other shard", func() bool { return client.XLen(t.Context(), back).Val() == 1 })
}
