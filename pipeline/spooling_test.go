package pipeline

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/redistest"
)

func awaitState(t testing.TB, b *Bus, want State) {
	t.Helper()
	awaitFact(t, "state "+string(want), func() bool { return b.State() == want })
}

// spooled publishes, and wants each event in the spool.
func publishSpooled(t testing.TB, b *Bus, events ...Event) {
	t.Helper()
	r, err := b.Publish(t.Context(), events...)
	if err != nil || r.Durability() != Spooled {
		t.Fatalf("published: %v, %v; want it spooled", r.Durability(), err)
	}
}

// published returns what the test has published: the history without what the bus says of itself.
func published(t testing.TB, b *Bus, q Query) []Record {
	t.Helper()
	return slices.DeleteFunc(records(t, b, q), func(r Record) bool { return r.Stream == SystemStream })
}

// alwaysServer keeps what it acknowledged when it is killed.
func alwaysServer(t testing.TB) *redistest.Server {
	return redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
}

// Redis is away for a while: publishing goes on, and when it is back everything is there once, in the order of each subject, and is handled.
func TestF58SpooledWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	cfg := Config{Redis: server.Options(), SpoolDir: t.TempDir()}
	changes := states(&cfg)
	b := openBus(t, cfg)
	handled := newTally()
	consume(t, b, GroupConfig{Group: "g", Patterns: []string{"*.step"}}, AllStreams, handled.ack)
	next := 0
	event := func(stream string) Event {
		next++
		return Event{ID: fmt.Sprintf("%06d", next), Type: stream + ".step", Subject: fmt.Sprint(next % 5), Data: []byte(fmt.Sprint(next))}
	}
	for range 50 {
		publish(t, b, event("order"))
	}
	server.Kill(t)
	awaitState(t, b, StateSpooling)
	for range 100 {
		publishSpooled(t, b, event("order"), event("invoice"), event("order"))
	}
	// With the one that tells of the outage.
	if h := b.Health(t.Context()); h.Status != StatusDegraded || h.Spool == nil || h.Spool.Events != 301 || h.Spool.Oldest == nil || h.Spool.Bytes == 0 || !hasProblem(h, "redis-away") {
		t.Errorf("health %s, spool %+v, problems %+v", h.Status, h.Spool, h.Problems)
	}
	if err := b.Ready(); err != nil {
		t.Errorf("not ready: %v; publishing works", err)
	}
	server.StartAgain(t)
	for b.State() == StateSpooling { // those of a subject that is in the spool go behind it
		if _, err := b.Publish(t.Context(), event("order")); err != nil {
			t.Fatal(err)
		}
	}
	for range 20 {
		if _, err := b.Publish(t.Context(), event("order")); err != nil {
			t.Fatal(err)
		}
	}
	awaitState(t, b, StateDurable)
	publish(t, b, event("order"))
	handled.await(t, next)
	last := map[string]string{}
	all := published(t, b, Query{})
	for _, r := range all {
		k := r.Stream + r.Event.Subject
		if r.Event.ID <= last[k] {
			t.Errorf("%s: %s stands behind %s", k, r.Event.ID, last[k])
		}
		last[k] = r.Event.ID
	}
	if len(all) != next {
		t.Errorf("%d events are stored, want each of %d once", len(all), next)
	}
	if twice := handled.more(); len(twice) > 0 {
		t.Errorf("handled more than once: %v", twice)
	}
	awaitRoom(t, b)
	awaitFact(t, "the events that tell of it", func() bool {
		var told []string
		for _, r := range records(t, b, Query{Streams: []string{SystemStream}}) {
			told = append(told, r.Event.Type)
		}
		return len(told) >= 3 && told[0] == "system.bus.spooling" && told[1] == "system.bus.draining" && told[len(told)-1] == "system.bus.durable"
	})
	var got []State
	for len(changes) > 0 {
		got = append(got, <-changes)
	}
	if len(got) < 3 || got[0] != StateSpooling || got[len(got)-1] != StateDurable || got[1] != StateDraining {
		t.Errorf("states %v", got)
	}
}

// A process that ends while its spool is not drained: the next one adopts it, also where Redis is still away when it starts.
func TestF58SpoolIsAdopted(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	cfg := Config{Redis: server.Options(), SpoolDir: t.TempDir()}
	server.Stop(t)
	b, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	awaitState(t, b, StateSpooling)
	publishSpooled(t, b, events(30, "booking.created")...)
	closeBus(t, b)

	b = openBus(t, cfg)
	if h := b.Health(t.Context()); h.Spool.Events != 30 {
		t.Errorf("spool %+v", h.Spool)
	}
	publishSpooled(t, b, Event{ID: "later", Type: "booking.created"})
	server.StartAgain(t)
	awaitState(t, b, StateDurable)
	if got := ids(published(t, b, Query{})); len(got) != 31 || got[30] != "later" {
		t.Errorf("stored %v", got)
	}
}

// What is published once is stored once, also where both times were spooled, or one of them.
func TestSpooledOnce(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	b := openBus(t, Config{Redis: server.Options(), SpoolDir: t.TempDir()})
	once := func(id string, want Durability) {
		t.Helper()
		r, err := b.PublishWith(t.Context(), PublishOptions{Once: true}, Event{ID: id, Type: "booking.created"})
		if err != nil || r.Durability() != want {
			t.Fatalf("%s: %v, %v; want %v", id, r.Durability(), err, want)
		}
	}
	once("a", Stored)
	server.Kill(t)
	awaitState(t, b, StateSpooling)
	for range 3 {
		once("a", Spooled)
		once("b", Spooled)
	}
	publishSpooled(t, b, Event{ID: "c", Type: "booking.created"})
	once("d", Spooled)
	server.StartAgain(t)
	awaitState(t, b, StateDurable)
	once("b", Stored)
	if diff := cmp.Diff([]string{"a", "b", "c", "d"}, ids(published(t, b, Query{}))); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
}

// An append whose reply is lost is spooled as it was, and stored once: whether the server had carried it out or not.
func TestF35DoubtfulAppendIsStoredOnce(t *testing.T) {
	t.Parallel()
	for name, cut := range map[string]func(p *redistest.Proxy){
		"carried out":     func(p *redistest.Proxy) { p.DropReplies(true) },
		"not carried out": func(p *redistest.Proxy) { p.Freeze() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, namespace := redistest.Shared(t), redistest.Namespace(t)
			proxy := redistest.NewProxy(t, server.Addr())
			options := &redis.UniversalOptions{Addrs: []string{proxy.Addr()}, ReadTimeout: 300 * time.Millisecond}
			b := openBus(t, Config{Redis: options, Namespace: namespace, SpoolDir: t.TempDir(), Writers: 1})
			publish(t, b, Event{ID: "before", Type: "booking.created", Subject: "s"})
			cut(proxy)
			var wg sync.WaitGroup
			for i := range 10 {
				wg.Go(func() {
					o := PublishOptions{Once: i%2 == 0}
					if r, err := b.PublishWith(t.Context(), o, Event{ID: fmt.Sprint("doubt-", i), Type: "booking.created", Subject: "s"}); err != nil || r.Durability() != Spooled {
						t.Errorf("published: %v, %v; want it spooled", r.Durability(), err)
					}
				})
			}
			wg.Wait()
			publishSpooled(t, b, Event{ID: "after", Type: "booking.created", Subject: "s"})
			proxy.DropReplies(false)
			proxy.Thaw()
			proxy.Reset()
			awaitState(t, b, StateDurable)
			publish(t, b, Event{ID: "last", Type: "booking.created", Subject: "s"})
			got := ids(published(t, b, Query{}))
			if len(got) != 13 || got[0] != "before" || got[11] != "after" || got[12] != "last" {
				t.Errorf("stored %v, want each of 13 once", got)
			}
		})
	}
}

func TestSpoolThatIsFullRefuses(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	b := openBus(t, Config{Redis: server.Options(), SpoolDir: t.TempDir(), SpoolBytes: 200_000})
	publish(t, b, Event{ID: "before", Type: "booking.created"})
	server.Kill(t)
	awaitState(t, b, StateSpooling)
	data := []byte(`"` + strings.Repeat("x", 1000) + `"`)
	accepted := 1
	for {
		r, err := b.Publish(t.Context(), Event{Type: "booking.created", Data: data})
		if errors.Is(err, ErrSpoolFull) && errors.Is(err, ErrUnavailable) && r.Durability() == Refused {
			break
		}
		if err != nil || accepted > 1000 {
			t.Fatal(accepted, err)
		}
		accepted++
	}
	if h := b.Health(t.Context()); h.Status != StatusUnhealthy || !hasProblem(h, "spool-full") {
		t.Errorf("health %s, %+v", h.Status, h.Problems)
	}
	if err := b.Ready(); !errors.Is(err, ErrSpoolFull) {
		t.Errorf("ready: %v, want it full", err)
	}
	server.StartAgain(t)
	awaitState(t, b, StateDurable)
	publish(t, b, Event{Type: "booking.created"})
	if n := len(records(t, b, Query{Streams: []string{"booking"}})); n != accepted+1 {
		t.Errorf("%d are stored, %d were accepted", n, accepted+1)
	}
}

// Where an event may go is decided by its scope: what is for Redis only is never spooled.
func TestScopesWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	b := openBus(t, Config{Redis: server.Options(), SpoolDir: t.TempDir()})
	server.Kill(t)
	awaitState(t, b, StateSpooling)
	for scope, want := range map[Scope]Durability{Everywhere: Spooled, LocalOnly: Volatile, RedisOnly: Refused} {
		r, err := b.PublishWith(t.Context(), PublishOptions{Scope: scope}, Event{ID: fmt.Sprint(scope), Type: "booking.created"})
		if r.Durability() != want || (want == Refused) != errors.Is(err, ErrUnavailable) {
			t.Errorf("scope %d: %v, %v; want %v", scope, r.Durability(), err, want)
		}
	}
	server.StartAgain(t)
	awaitState(t, b, StateDurable)
	if got := ids(published(t, b, Query{Source: FromRedis})); len(got) != 1 || got[0] != fmt.Sprint(Everywhere) {
		t.Errorf("stored %v", got)
	}
}

// A key of another type, a wrong right: no fallback, neither for a call nor in the drain, which says what stands in its way.
func TestSpoolIsNoFallbackForWhatIsRefused(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	client := server.Client(t)
	b := openBus(t, Config{Redis: server.Options(), SpoolDir: t.TempDir()})
	if err := client.Set(t.Context(), "booking", "x", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Publish(t.Context(), Event{Type: "booking.created"}); !errors.Is(err, ErrDenied) {
		t.Errorf("publish: %v, want it denied", err)
	}
	server.Kill(t)
	awaitState(t, b, StateSpooling)
	publishSpooled(t, b, Event{ID: "e", Type: "booking.created", Subject: "s"})
	server.StartAgain(t)
	awaitState(t, b, StateDraining)
	awaitFact(t, "a problem", func() bool { return hasProblem(b.Health(t.Context()), "spool-stuck") })
	publish(t, b, Event{Type: "invoice.issued"}) // others go on
	if err := client.Del(t.Context(), "booking").Err(); err != nil {
		t.Fatal(err)
	}
	awaitState(t, b, StateDurable)
	if got := ids(records(t, b, Query{Streams: []string{"booking"}})); len(got) != 1 {
		t.Errorf("stored %v", got)
	}
}

// What a process before has drained, and could not say so any more, is passed over.
func TestDrainGoesOnBehindWhatIsStored(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	b := openBus(t, Config{Redis: server.Options(), Namespace: namespace, SpoolDir: t.TempDir()})
	var batch []*pending
	for i := range 6 {
		e := Event{ID: fmt.Sprint(i), Type: "booking.created", Source: "s", Time: time.Now()}
		batch = append(batch, &pending{call: newCall(1), stream: "booking", message: encode(&e)})
	}
	messages := []redisstream.Message{batch[0].message, batch[1].message, batch[2].message}
	done, last, _, err := b.redis.Drain(t.Context(), "booking", redisstream.Writer{Name: b.spool.log.ID(), Seq: 3}, 0, messages)
	if !done || last != 3 || err != nil {
		t.Fatal(done, last, err)
	}
	// A packet of that process comes late.
	if done, last, _, err := b.redis.Drain(t.Context(), "booking", redisstream.Writer{Name: b.spool.log.ID(), Seq: 2}, 0, messages[:2]); done || last != 3 || err != nil {
		t.Errorf("a late packet: done %v, last %d, %v", done, last, err)
	}
	b.spool.keep(batch) // records 1 to 6, of which three are there
	awaitFact(t, "the end of the drain", b.spool.isEmpty)
	if diff := cmp.Diff([]string{"0", "1", "2", "3", "4", "5"}, ids(published(t, b, Query{}))); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
}

func TestSpoolDirThatCannotBe(t *testing.T) {
	t.Parallel()
	_, err := Open(t.Context(), Config{Redis: redistest.Shared(t).Options(), SpoolDir: filepath.Join("/dev/null", "spool")})
	if err == nil || !strings.Contains(err.Error(), "spool") {
		t.Errorf("open: %v, want it to name the spool", err)
	}
}

func FuzzSpooled(f *testing.F) {
	r := spooled{stream: "booking", at: time.UnixMilli(1_800_000_000_000).UTC(), doubtful: redisstream.Writer{Name: "w", Seq: 7}, events: []spooledEvent{
		{"s", redisstream.Message{UUID: "e", Metadata: "\x80", Payload: "{}"}, nil},
		{"", redisstream.Message{UUID: "f"}, &redisstream.Seen{Key: "k", Window: time.Hour, Print: "p"}},
	}}
	f.Add(r.encode())
	f.Add([]byte{})
	f.Add(r.encodeDiscarded(len(r.encode())))
	f.Add([]byte{spoolVersion, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := decodeSpooled(data)
		if stream, ok := spooledStream(data); err == nil && (!ok || string(stream) != s.stream) {
			t.Fatalf("stream %q, want %q", stream, s.stream)
		}
		if err != nil {
			return
		}
		if n := s.discarded; n > 0 {
			place := spooled{stream: s.stream, events: make([]spooledEvent, min(n, 1000))}
			if again, err := decodeSpooled(place.encodeDiscarded(len(data))); err != nil || again.stream != s.stream || again.discarded != min(n, 1000) {
				t.Errorf("%v: %+v became %+v", err, s, again)
			}
			return
		}
		again, err := decodeSpooled(s.encode())
		if err != nil || !bytes.Equal(again.encode(), s.encode()) {
			t.Errorf("%v: %+v became %+v", err, s, again)
		}
	})
	if got, err := decodeSpooled(r.encode()); err != nil || !bytes.Equal(got.encode(), r.encode()) || got.events[1].once.Window != time.Hour {
		f.Errorf("%v: %+v", err, got)
	}
}

// Two processes died, one starts again: it drains what both have left.
func TestF58SpoolsOfDeadProcessesAreAdopted(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	cfg := Config{Redis: server.Options(), SpoolDir: t.TempDir()}
	server.Stop(t)
	var dead []*Bus
	for i := range 3 {
		b, err := Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		awaitState(t, b, StateSpooling)
		publishSpooled(t, b, Event{ID: fmt.Sprint(i), Type: "booking.created"})
		dead = append(dead, b)
	}
	slots, err := SpoolSlots(cfg.SpoolDir)
	if err != nil || len(slots) != 3 || !slots[2].InUse || slots[2].Events != 1 || slots[2].Oldest == nil || slots[2].Namespace != "default" {
		t.Errorf("slots %+v, %v", slots, err)
	}
	for _, b := range dead {
		closeBus(t, b)
	}
	slots, _ = SpoolSlots(cfg.SpoolDir)
	for e, err := range SpooledEvents(slots[1].Dir) {
		if err != nil || e.ID != "1" || e.Type != "booking.created" || e.CorrelationID == "" {
			t.Errorf("spooled event %+v, %v", e, err)
		}
	}
	server.StartAgain(t)
	b := openBus(t, cfg)
	awaitFact(t, "what all of them have left", func() bool { return len(published(t, b, Query{})) == 3 })
	awaitFact(t, "empty slots", func() bool {
		slots, err := SpoolSlots(cfg.SpoolDir)
		return err == nil && len(slots) == 3 && slots[0].Events+slots[1].Events+slots[2].Events == 0 && !slots[1].InUse && slots[0].InUse
	})
}

// An event that was spooled under a key which somebody else has used meanwhile can't be stored. That is told.
func TestF55ConflictOfASpooledEventIsALoss(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	proxy := redistest.NewProxy(t, server.Addr())
	lost := make(chan Loss, 10)
	b := openBus(t, Config{Redis: &redis.UniversalOptions{Addrs: []string{proxy.Addr()}}, SpoolDir: t.TempDir(), Hooks: Hooks{Lost: func(l Loss) { lost <- l }}})
	other := openBus(t, Config{Redis: server.Options()})
	proxy.Refuse(true)
	proxy.Reset()
	awaitState(t, b, StateSpooling)
	o := PublishOptions{Key: "k"}
	if r, err := b.PublishWith(t.Context(), o, Event{Type: "booking.created"}); err != nil || r.Durability() != Spooled {
		t.Fatal(r, err)
	}
	there, err := other.PublishWith(t.Context(), o, Event{Type: "booking.cancelled"})
	if err != nil {
		t.Fatal(err)
	}
	proxy.Refuse(false)
	if l := within(t, "the loss", lost); l.Reason != ReasonConflict || l.Events != 1 || l.From != there.Outcomes[0].Position {
		t.Errorf("%+v", l)
	}
	awaitState(t, b, StateDurable)
	if h := b.Health(t.Context()); len(h.Lost) != 1 || !hasProblem(h, "spool-conflict") {
		t.Errorf("health: %+v", h)
	}
}
