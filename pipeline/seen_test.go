package pipeline

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/redistest"
)

func TestPublishOnce(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		once := func(o PublishOptions, events ...Event) []Outcome {
			t.Helper()
			r, err := b.PublishWith(t.Context(), o, events...)
			if err != nil {
				t.Fatal(err)
			}
			return r.Outcomes
		}
		first := once(PublishOptions{Once: true}, Event{ID: "a", Type: "booking.created"}, Event{ID: "b", Type: "booking.created"}, Event{Type: "booking.created"})
		again := once(PublishOptions{Once: true}, Event{ID: "b", Type: "booking.created"}, Event{ID: "c", Type: "booking.created"}, Event{Type: "booking.created"})
		if !again[0].Duplicate || again[0].Position != first[1].Position || again[0].ID != "b" || again[1].Duplicate || again[2].Duplicate || first[1].Duplicate {
			t.Errorf("first %+v, again %+v; want b once, and all else", first, again)
		}
		// P16: other content under the same ID was thrown away with the answer that it was stored.
		for name, other := range map[string]Event{
			"data":         {ID: "a", Type: "booking.created", Data: []byte(`"other"`)},
			"type":         {ID: "a", Type: "booking.cancelled"},
			"subject":      {ID: "a", Type: "booking.created", Subject: "s"},
			"content type": {ID: "a", Type: "booking.created", ContentType: "text/plain"},
		} {
			r, err := b.PublishWith(t.Context(), PublishOptions{Once: true}, other)
			if !errors.Is(err, ErrConflict) || r.Outcomes[0].Durability != Refused || !strings.Contains(err.Error(), string(first[0].Position)) {
				t.Errorf("other %s under the same ID: %v, %+v; want a conflict with the one at %s", name, err, r.Outcomes, first[0].Position)
			}
		}
		// The same ID of another source, or without Once, is another event.
		if o := once(PublishOptions{Once: true}, Event{ID: "a", Source: "desk", Type: "booking.created"}); o[0].Duplicate {
			t.Errorf("an event of another source is taken for a repetition: %+v", o)
		}
		if o := once(PublishOptions{}, Event{ID: "c", Type: "booking.created"}); o[0].Duplicate {
			t.Errorf("an event without Once is taken for a repetition: %+v", o)
		}
		if n := len(records(t, b, Query{})); n != 7 {
			t.Errorf("%d events are stored, want 7", n)
		}
	})
}

func TestPublishUnderAKey(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		call := func(key string, scope Scope, events ...Event) (Receipt, error) {
			return b.PublishWith(t.Context(), PublishOptions{Key: key, Scope: scope}, events...)
		}
		two := []Event{{Type: "booking.created", Data: []byte("1")}, {Type: "invoice.issued", Data: []byte("2")}}
		first, err := call("k", Everywhere, two...)
		if err != nil {
			t.Fatal(err)
		}
		again, err := call("k", Everywhere, two...)
		if err != nil {
			t.Fatal(err)
		}
		for i := range first.Outcomes {
			first.Outcomes[i].Duplicate = true
		}
		if diff := cmp.Diff(first.Outcomes, again.Outcomes); diff != "" {
			t.Errorf("the answer to a repetition, IDs included (-want +got):\n%s", diff)
		}
		for name, other := range map[string][]Event{
			"other data":  {{Type: "booking.created", Data: []byte("3")}, two[1]},
			"elsewhere":   {{Type: "order.created", Data: []byte("1")}},
			"one more":    {two[0], two[1], {Type: "order.created"}},
			"other type":  {{Type: "booking.cancelled", Data: []byte("1")}, two[1]},
			"fewer":       two[:1],
			"other order": {{Type: "booking.created", Data: []byte("2")}, {Type: "invoice.issued", Data: []byte("1")}},
		} {
			if r, err := call("k", Everywhere, other...); !errors.Is(err, ErrConflict) || r.Outcomes[0].Durability != Refused {
				t.Errorf("%s under the same key: %v, %+v; want a conflict", name, err, r.Outcomes)
			}
		}
		if r, err := call("l", Everywhere, two...); err != nil || r.Outcomes[0].Duplicate {
			t.Errorf("another key: %v, %+v", err, r.Outcomes)
		}
		if n := len(records(t, b, Query{})); n != 4 {
			t.Errorf("%d events are stored, want 4", n)
		}
		if b.local == nil {
			return
		}
		for i := range 2 {
			if r, err := call("local", LocalOnly, two[0]); err != nil || r.Outcomes[0].Duplicate != (i == 1) {
				t.Errorf("local only, call %d: %v, %+v", i, err, r.Outcomes)
			}
		}
	})
}

// Many callers repeat the same call at the same time: one of them stores it.
func TestPublishOnceFromManyCallers(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		var wg sync.WaitGroup
		var mu sync.Mutex
		appended, positions := 0, map[Position]bool{}
		for range 20 {
			wg.Go(func() {
				r, err := b.PublishWith(t.Context(), PublishOptions{Key: "k"}, Event{Type: "booking.created", Subject: "s"})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				positions[r.Outcomes[0].Position] = true
				if !r.Outcomes[0].Duplicate {
					appended++
				}
			})
		}
		wg.Wait()
		if n := len(records(t, b, Query{})); n != 1 || appended != 1 || len(positions) != 1 {
			t.Errorf("%d stored, %d say that they stored it, at %v", n, appended, positions)
		}
	})
}

// Events with and without Once in one queue: those of a subject keep their order.
func TestPublishOnceKeepsTheOrderOfASubject(t *testing.T) {
	t.Parallel()
	b := openBus(t, Config{Redis: redistest.Shared(t).Options(), Namespace: redistest.Namespace(t)})
	var wg sync.WaitGroup
	for s := range 8 {
		wg.Go(func() {
			for i := range 60 {
				e := Event{ID: fmt.Sprintf("%d-%03d", s, i), Type: "booking.created", Subject: fmt.Sprint(s)}
				if _, err := b.PublishWith(t.Context(), PublishOptions{Once: i%3 == 0}, e); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	last := map[string]string{}
	n := 0
	for _, r := range records(t, b, Query{}) {
		if r.Event.ID <= last[r.Event.Subject] {
			t.Errorf("%s stands behind %s", r.Event.ID, last[r.Event.Subject])
		}
		last[r.Event.Subject] = r.Event.ID
		n++
	}
	if n != 8*60 {
		t.Errorf("%d events, want %d", n, 8*60)
	}
}

func TestOneAppendIsOfOneKind(t *testing.T) {
	t.Parallel()
	w := newWriter(&Bus{cfg: Config{QueueEvents: 100, QueueBytes: 10_000}}, "w")
	q := w.queue("a")
	q.working = true // this test does the work
	once := &redisstream.Seen{}
	w.put(t.Context(), []*pending{{index: 0, stream: "a"}, {index: 1, stream: "a"}, {index: 2, stream: "a", once: once}, {index: 3, stream: "a"}})
	var got [][]int
	for batch := q.take(); len(batch) > 0; batch = q.take() {
		var indexes []int
		for _, p := range batch {
			indexes = append(indexes, p.index)
		}
		got = append(got, indexes)
	}
	if diff := cmp.Diff([][]int{{0, 1}, {2}, {3}}, got); diff != "" {
		t.Errorf("appends (-want +got):\n%s", diff)
	}
}

// A lost reply: the repetition of the append is no duplicate to its own caller. And keys end: by their window, and by their bound.
func TestAppendOnceRepeatedAndForgotten(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		if b.redis == nil {
			t.Skip("no reply is lost on the way to memory")
		}
		messages := []redisstream.Message{encode(&Event{ID: "e", Type: "booking.created"}), encode(&Event{ID: "f", Type: "booking.created"})}
		seen := []redisstream.Seen{{Key: "e", Window: time.Hour}, {Key: "f", Window: 20 * time.Millisecond}}
		one := redisstream.Writer{Name: "one", Seq: 7}
		first, _, err := b.log.AppendOnce(t.Context(), "booking", one, messages, seen)
		if err != nil {
			t.Fatal(err)
		}
		again, _, err := b.log.AppendOnce(t.Context(), "booking", one, messages[:1], seen[:1])
		if err != nil || again[0] != first[0] || again[0].Duplicate {
			t.Errorf("repeated: %+v, %v; want %+v", again, err, first[0])
		}
		other, _, err := b.log.AppendOnce(t.Context(), "booking", redisstream.Writer{Name: "other", Seq: 1}, messages[:1], seen[:1])
		if err != nil || !other[0].Duplicate || other[0].ID != first[0].ID {
			t.Errorf("by another writer: %+v, %v", other, err)
		}
		if _, _, err := b.log.AppendOnce(t.Context(), "booking", redisstream.Writer{Name: "one", Seq: 6}, messages, seen); err == nil {
			t.Error("a packet that came late was taken")
		}
		seq := uint64(1)
		awaitFact(t, "the end of a window", func() bool {
			seq++
			a, _, err := b.log.AppendOnce(t.Context(), "booking", redisstream.Writer{Name: "other", Seq: seq}, messages[1:], seen[1:])
			return err == nil && !a[0].Duplicate
		})
	})
}

// A stream that must forget keys before their time says so: a repetition of those events would be stored again.
func TestP15KeysForgottenEarlyAreShown(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		open func(*testing.T) *Bus
		fill func(*testing.T, *Bus)
	}{
		"redis": {
			func(t *testing.T) *Bus { return openBus(t, Config{Redis: redistest.Start(t).Options()}) },
			func(t *testing.T, b *Bus) {
				client := redis.NewUniversalClient(b.cfg.Redis)
				defer client.Close()
				for from := 0; from < redisstream.SeenBound; from += redisstream.SeenBound / 10 {
					err := client.Eval(t.Context(), `for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do redis.call('ZADD', KEYS[1], 9e15, 'key ' .. i) end return 1`,
						[]string{"{booking}:seen"}, from, from+redisstream.SeenBound/10-1).Err()
					if err != nil {
						t.Fatal(err)
					}
				}
			},
		},
		"memory": {
			func(t *testing.T) *Bus { return openBus(t, Config{}) },
			func(t *testing.T, b *Bus) {
				messages, seen := make([]redisstream.Message, 1000), make([]redisstream.Seen, 1000)
				for from := 0; from < 100_000; from += len(seen) { // as many as PublishOptions promises
					for i := range seen {
						seen[i] = redisstream.Seen{Key: fmt.Sprint(from + i), Window: time.Hour}
					}
					if _, _, err := b.local.AppendOnce(t.Context(), "booking", redisstream.Writer{}, messages, seen); err != nil {
						t.Fatal(err)
					}
				}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := c.open(t)
			publish(t, b, Event{Type: "booking.created"})
			c.fill(t, b)
			var h Health
			awaitFact(t, "the server to have done with it", func() bool { h = b.Health(t.Context()); return len(h.Streams) == 1 })
			if h.Streams[0].SeenLost != 0 || hasProblem(h, "keys-forgotten") {
				t.Errorf("nothing is forgotten yet: %+v, %+v", h.Streams[0], h.Problems)
			}
			if _, err := b.PublishWith(t.Context(), PublishOptions{Once: true}, Event{ID: "beyond", Type: "booking.created"}); err != nil {
				t.Fatal(err)
			}
			if h := b.Health(t.Context()); h.Streams[0].SeenLost != 1 || !hasProblem(h, "keys-forgotten") {
				t.Errorf("got %d forgotten keys and problems %+v", h.Streams[0].SeenLost, h.Problems)
			}
		})
	}
}

// What was remembered before fingerprints were, or is restored without one, is no conflict.
func TestP16EmptyFingerprintIsLikeAny(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		message := []redisstream.Message{encode(&Event{ID: "e", Type: "booking.created"})}
		for i, step := range []struct {
			key, print          string
			duplicate, conflict bool
		}{{"old", "", false, false}, {"old", "x", true, false}, {"new", "x", false, false}, {"new", "", true, false}, {"new", "y", false, true}} {
			got, _, err := b.log.AppendOnce(t.Context(), "booking", redisstream.Writer{Name: "w", Seq: uint64(i + 1)}, message,
				[]redisstream.Seen{{Key: step.key, Window: time.Hour, Print: step.print}})
			if err != nil || got[0].Duplicate != step.duplicate || got[0].Conflict != step.conflict {
				t.Errorf("%+v: got %+v, %v", step, got, err)
			}
		}
	})
}

// Callers who use one key for events of different streams at the same time: one call is carried out, as a whole, whichever bus they use.
func TestP15KeyForAnotherStreamIsAConflict(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	buses := []*Bus{openBus(t, Config{Redis: server.Options()}), openBus(t, Config{Redis: server.Options(), RedisOnly: true})}
	for round := range 20 {
		var wg sync.WaitGroup
		var stored, conflicts atomic.Int32
		for i, eventType := range []string{"booking.created", "order.created", "invoice.issued", "user.invited"} {
			wg.Go(func() {
				_, err := buses[i%2].PublishWith(t.Context(), PublishOptions{Key: fmt.Sprint("k", round)}, Event{Type: eventType}, Event{Type: "common.event"})
				switch {
				case err == nil:
					stored.Add(1)
				case errors.Is(err, ErrConflict):
					conflicts.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if stored.Load() != 1 || conflicts.Load() != 3 {
			t.Fatalf("%d calls are stored and %d are conflicts, want 1 and 3", stored.Load(), conflicts.Load())
		}
	}
	if n := len(records(t, buses[0], Query{Limit: 100})); n != 40 {
		t.Errorf("%d events, want 2 of each round", n)
	}
}

// A call with a key is kept while Redis is away, like any other.
func TestP15KeyedCallIsSpooled(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	b := openBus(t, Config{Redis: server.Options(), SpoolDir: t.TempDir(), OutageAfter: 200 * time.Millisecond})
	server.Kill(t)
	r, err := b.PublishWith(t.Context(), PublishOptions{Key: "k"}, Event{Type: "booking.created"})
	if err != nil || r.Outcomes[0].Durability != Spooled {
		t.Errorf("%+v, %v", r.Outcomes, err)
	}
}

// A publisher who may not remember keys is told so, and nothing is stored.
func TestP15KeyedCallWithoutTheRight(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	if err := server.Client(t).Do(t.Context(), "ACL", "SETUSER", "worker", "on", ">secret", "%RW~booking", "%RW~{booking}:*", "%RW~millrace:registry:streams", "+@all").Err(); err != nil {
		t.Fatal(err)
	}
	options := server.Options()
	options.Username, options.Password = "worker", "secret"
	b := openBus(t, Config{Redis: options})
	if _, err := b.PublishWith(t.Context(), PublishOptions{Key: "k"}, Event{Type: "booking.created"}); !errors.Is(err, ErrDenied) {
		t.Errorf("got %v, want it denied", err)
	}
	publish(t, b, Event{Type: "booking.created"})
	if n := len(records(t, b, Query{Source: FromRedis})); n != 1 {
		t.Errorf("%d events are stored, want 1", n)
	}
}
