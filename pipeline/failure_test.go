package pipeline

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/rishi-platform/millrace/internal/group"
	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/redistest"
)

// handle subscribes in a group, and settles each delivery with what the function returns, all at the same time.
func handle(t testing.TB, b *Bus, g GroupConfig, topic string, fn func(ctx context.Context, d *Delivery) error) message.Subscriber {
	t.Helper()
	g.SettledByHandler = true
	sub := b.Subscriber(g)
	messages, err := sub.Subscribe(t.Context(), topic)
	if err != nil {
		t.Fatalf("subscribe: %v", err)
	}
	go func() {
		for m := range messages {
			go func() {
				d := CurrentDelivery(m.Context())
				if !d.Begin() {
					d.Settle(ErrLeaseLost)
					return
				}
				d.Settle(fn(m.Context(), d))
			}()
		}
	}()
	return sub
}

// at waits for no time at all between attempts.
func atOnce(int) time.Duration { return 0 }

func onlyDead(t *testing.T, b *Bus, stream, group string) DeadLetter {
	t.Helper()
	dead := deadLetters(t, b, stream, group)
	if len(dead) != 1 {
		t.Fatalf("got %d dead letters, want 1: %+v", len(dead), dead)
	}
	return dead[0]
}

func awaitDead(t *testing.T, b *Bus, stream, group string, n int64) {
	t.Helper()
	awaitGroup(t, b, stream, group, func(g redisstream.GroupInfo) bool {
		return g.Dead == n && g.Pending == 0 && g.Lane == 0 && g.Deferred == 0
	})
}

func TestF15FailingEventIsGivenUpAfterItsAttemptsAndDelaysNoOther(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		const pause = 300 * time.Millisecond
		var mu sync.Mutex
		var begun []time.Time
		var attempts []int
		done := newTally()
		g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}, InFlight: 4, Policy: Policy{Attempts: 3, Backoff: func(failures int) time.Duration { return time.Duration(failures) * pause }}}
		handle(t, b, g, AllStreams, func(_ context.Context, d *Delivery) error {
			if d.Event.Type != "booking.bad" {
				done.add(d.Event.ID)
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			begun, attempts = append(begun, time.Now()), append(attempts, d.Attempt)
			return errors.New("no room 17")
		})
		bad := publish(t, b, Event{ID: "bad", Type: "booking.bad", Subject: "booking/1", CorrelationID: "c-1", Data: []byte(`{"room":17}`)})
		publish(t, b, events(1000, "booking.created")...)
		started := time.Now()
		done.await(t, 1000)
		if took := time.Since(started); took > 5*time.Second { // far less; three attempts alone take 0.9 s
			t.Errorf("the good ones took %v", took)
		}
		awaitDead(t, b, "booking", "g", 1)
		d := onlyDead(t, b, "booking", "g")
		if diff := cmp.Diff([]int{1, 2, 3}, attempts); diff != "" {
			t.Errorf("attempts (-want +got):\n%s", diff)
		}
		for i := 1; i < len(begun); i++ {
			due, took := time.Duration(i)*pause, begun[i].Sub(begun[i-1])
			if took < due || took > due+due/10+200*time.Millisecond {
				t.Errorf("attempt %d came after %v, want %v", i+1, took, due)
			}
		}
		if d.Kind != KindError || d.Cause != "no room 17" || d.Attempts != 3 || d.Event.ID != "bad" || d.Event.CorrelationID != "c-1" || string(d.Event.Data) != `{"room":17}` ||
			d.OriginalPosition != bad.Outcomes[0].Position || d.Group != "g" || d.Consumer == "" || d.Fingerprint != group.Fingerprint(KindError, "no room 4711") {
			t.Errorf("dead letter %+v", d)
		}
		if d.FirstAt.Sub(begun[0]).Abs() > time.Second || d.LastAt.Sub(begun[2]).Abs() > time.Second {
			t.Errorf("dead letter is from %v to %v, want %v to %v", d.FirstAt, d.LastAt, begun[0], begun[2])
		}
	})
}

func TestKindsOfFailure(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		failures := map[string]error{
			"permanent": &PermanentError{Err: errors.New("no such room")},
			"decode":    fmt.Errorf("handle: %w", &DecodeError{ID: "e", Type: "booking.decode", Err: errors.New("not JSON")}),
			"panic":     &PanicError{Value: "boom", Stack: "main.main()"},
			"error":     errors.New("no"),
		}
		handle(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}, Policy: Policy{Attempts: 2, Backoff: atOnce}}, AllStreams, func(_ context.Context, d *Delivery) error {
			return failures[strings.TrimPrefix(d.Event.Type, "booking.")]
		})
		for kind := range failures {
			publish(t, b, Event{Type: "booking." + kind})
		}
		awaitDead(t, b, "booking", "g", 4)
		for _, d := range deadLetters(t, b, "booking", "g") {
			want := 2
			if d.Kind == KindPermanent || d.Kind == KindDecode {
				want = 1
			}
			if "booking."+d.Kind != d.Event.Type || d.Attempts != want || d.Cause != failures[d.Kind].Error() || (d.Stack != "") != (d.Kind == KindPanic) {
				t.Errorf("%s became %+v, want it after %d attempts", d.Event.Type, d, want)
			}
		}
	})
}

func TestRetryAfterCostsNoAttempt(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		var mu sync.Mutex
		var attempts []int
		var begun []time.Time
		handle(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}, Policy: Policy{Attempts: 1}}, AllStreams, func(_ context.Context, d *Delivery) error {
			mu.Lock()
			defer mu.Unlock()
			attempts, begun = append(attempts, d.Attempt), append(begun, time.Now())
			if len(attempts) < 4 {
				return &RetryAfterError{Err: errors.New("not yet"), After: 50 * time.Millisecond}
			}
			return nil
		})
		publish(t, b, Event{Type: "booking.created"})
		awaitFact(t, "the fourth time", func() bool { mu.Lock(); defer mu.Unlock(); return len(attempts) == 4 })
		awaitSettled(t, b, "booking", "g")
		if diff := cmp.Diff([]int{1, 1, 1, 1}, attempts); diff != "" {
			t.Errorf("attempts (-want +got):\n%s", diff)
		}
		if took := begun[3].Sub(begun[0]); took < 150*time.Millisecond {
			t.Errorf("three times 50 ms took %v", took)
		}
		if dead := deadLetters(t, b, "booking", "g"); len(dead) != 0 {
			t.Errorf("got dead letters %+v", dead)
		}
	})
}

func TestDefaultBackoff(t *testing.T) {
	t.Parallel()
	for failures, want := range map[int]time.Duration{0: time.Second, 1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second, 9: 256 * time.Second, 10: 512 * time.Second, 11: 900 * time.Second, 1000: 900 * time.Second} {
		different := map[time.Duration]bool{}
		for range 100 {
			got := DefaultBackoff(failures)
			different[got] = true
			if got < want*8/10 || got > want*12/10 {
				t.Fatalf("after %d failures: %v, want %v ± 20 %%", failures, got, want)
			}
		}
		if len(different) < 50 {
			t.Errorf("after %d failures: only %d different waits of 100", failures, len(different))
		}
	}
}

// A foreign router says that a handler failed by a Nack.
func TestNackIsAFailure(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		consume(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}, Policy: Policy{Attempts: 2, Backoff: atOnce}}, AllStreams, func(m *message.Message, _ *Delivery) { m.Nack() })
		publish(t, b, Event{Type: "booking.created"})
		awaitDead(t, b, "booking", "g", 1)
		if d := onlyDead(t, b, "booking", "g"); d.Kind != KindError || d.Cause != "nacked" || d.Attempts != 2 {
			t.Errorf("got %+v", d)
		}
	})
}

// The fields of the entry stand in the dead letter as they were, those of other software too.
func TestF43DeadLetterKeepsTheOriginalEntry(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	b := openBus(t, Config{Redis: server.Options(), Namespace: namespace})
	handle(t, b, GroupConfig{Group: "g", Patterns: []string{"d"}, Policy: Policy{Attempts: 2, Backoff: atOnce}}, AllStreams, func(context.Context, *Delivery) error { return errors.New("no") })
	id := xadd(t, server.Client(t), namespace+":d", "*", "a", "1", "a", "\xff")
	awaitDead(t, b, "d", "g", 1)
	fields := fieldsIn(t, server.Client(t), "{"+namespace+":d}:dead:g")
	if len(fields) != 1 || !cmp.Equal(fields[0][:5], []string{"a", "1", "a", "\xff", "millrace_dead"}) {
		t.Errorf("dead letter has the fields %q", fields)
	}
	if d := onlyDead(t, b, "d", "g"); string(d.OriginalPosition) != id || string(d.Event.Data) != `[["a","1"],["a","/w=="]]` {
		t.Errorf("dead letter %+v of %s", d, d.Event.Data)
	}
}

func TestRequeuedDeadLetterComesAgainToItsGroupAlone(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		var mu sync.Mutex
		heals := false
		got := make(chan Delivery, 10)
		handle(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}, InFlight: 1, Policy: Policy{Attempts: 1}}, AllStreams, func(_ context.Context, d *Delivery) error {
			mu.Lock()
			defer mu.Unlock()
			if !heals {
				return errors.New("no")
			}
			got <- *d
			return nil
		})
		others := newTally()
		handle(t, b, GroupConfig{Group: "h", Patterns: []string{"booking.*"}}, AllStreams, func(_ context.Context, d *Delivery) error { others.add(d.Event.ID); return nil })
		r := publish(t, b, Event{ID: "1", Type: "booking.created"}, Event{ID: "2", Type: "booking.created"}, Event{ID: "3", Type: "booking.created"})
		awaitDead(t, b, "booking", "g", 3)
		mu.Lock()
		heals = true
		mu.Unlock()
		dead := deadLetters(t, b, "booking", "g")
		n, err := b.Requeue(t.Context(), "booking", "g", dead[0].Position, "1-1", dead[1].Position)
		if n != 2 || err != nil {
			t.Errorf("requeued %d, %v, want 2", n, err)
		}
		for range 2 {
			d := within(t, "a requeued delivery", got)
			if d.Attempt != 1 || d.Origin != OriginRequeue || d.Event.ID == "3" || d.Position != r.Outcomes[int(d.Event.ID[0]-'1')].Position {
				t.Errorf("got %+v", d)
			}
		}
		awaitDead(t, b, "booking", "g", 1)
		if n, err := b.Discard(t.Context(), "booking", "g", dead[2].Position, dead[0].Position); n != 1 || err != nil {
			t.Errorf("discarded %d, %v, want 1", n, err)
		}
		awaitDead(t, b, "booking", "g", 0)
		others.await(t, 3)
		if twice := others.more(); len(twice) > 0 {
			t.Errorf("another group got %v again", twice)
		}
	})
}

func TestDeadLettersAreSelected(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		handle(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.**"}, InFlight: 1, Policy: Policy{Attempts: 1}}, AllStreams, func(_ context.Context, d *Delivery) error {
			if d.Event.Type == "booking.odd" {
				return &PermanentError{Err: errors.New("odd")}
			}
			return errors.New("even")
		})
		for i := range 250 {
			publish(t, b, Event{ID: fmt.Sprintf("%03d", i), Type: []string{"booking.even", "booking.odd"}[i%2], CorrelationID: fmt.Sprint("c-", i%5)})
		}
		awaitDead(t, b, "booking", "g", 250)
		all := deadLetters(t, b, "booking", "g")
		if len(all) != 250 || all[0].Event.ID != "000" || all[249].Event.ID != "249" {
			t.Fatalf("got %d dead letters", len(all))
		}
		for name, test := range map[string]struct {
			query DeadQuery
			want  int
			first string
		}{
			"kind":        {DeadQuery{Kind: KindPermanent}, 125, "001"},
			"type":        {DeadQuery{Types: []string{"booking.even"}}, 125, "000"},
			"correlation": {DeadQuery{CorrelationID: "c-3"}, 50, "003"},
			"fingerprint": {DeadQuery{Fingerprint: group.Fingerprint(KindError, "even")}, 125, "000"},
			"limit":       {DeadQuery{Limit: 7}, 7, "000"},
			"newest":      {DeadQuery{Newest: true, Limit: 120}, 120, "249"},
			"after":       {DeadQuery{After: all[99].Position}, 150, "100"},
			"before":      {DeadQuery{After: all[99].Position, Newest: true}, 99, "098"},
			"since":       {DeadQuery{Since: time.Now().Add(time.Hour)}, 0, ""},
			"until":       {DeadQuery{Until: time.Now().Add(-time.Hour)}, 0, ""},
			"lately":      {DeadQuery{Since: time.Now().Add(-time.Hour), Until: time.Now().Add(time.Hour)}, 250, "000"},
		} {
			test.query.Stream, test.query.Group = "booking", "g"
			n, first := 0, ""
			for d, err := range b.DeadLetters(t.Context(), test.query) {
				if err != nil {
					t.Fatal(err)
				}
				if n++; n == 1 {
					first = d.Event.ID
				}
			}
			if n != test.want || first != test.first {
				t.Errorf("%s: got %d from %q on, want %d from %q on", name, n, first, test.want, test.first)
			}
		}
	})
}

func TestDeadLettersBeyondTheirBoundAreCountedAsLost(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		handle(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}, InFlight: 1, Policy: Policy{Attempts: 1, DeadLetters: 3}}, AllStreams, func(context.Context, *Delivery) error { return errors.New("no") })
		publish(t, b, events(10, "booking.created")...)
		awaitDead(t, b, "booking", "g", 3)
		awaitGroup(t, b, "booking", "g", func(g redisstream.GroupInfo) bool { return g.DeadLost == 7 })
		if dead := deadLetters(t, b, "booking", "g"); len(dead) != 3 || dead[0].Event.ID != "e00007" {
			t.Errorf("kept %+v, want the newest three", dead)
		}
		if h := b.Health(t.Context()); !hasProblem(h, "dead-letters-lost") {
			t.Errorf("health says nothing of it: %+v", h.Problems)
		}
	})
}

func TestHandlerTimeout(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		cause := make(chan error, 1)
		handle(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}, Policy: Policy{Attempts: 1, Timeout: 50 * time.Millisecond}}, AllStreams, func(ctx context.Context, d *Delivery) error {
			<-ctx.Done()
			cause <- context.Cause(ctx)
			return nil // too late: it is a failure whatever it returns
		})
		publish(t, b, Event{Type: "booking.created"})
		if err := within(t, "the end of the handler's time", cause); !errors.Is(err, ErrHandlerTimeout) {
			t.Errorf("got cause %v, want ErrHandlerTimeout", err)
		}
		awaitDead(t, b, "booking", "g", 1)
		if d := onlyDead(t, b, "booking", "g"); d.Kind != KindTimeout || d.Cause != "handler ran longer than 50ms" {
			t.Errorf("got %+v", d)
		}
	})
}

func TestStuckHandlersGiveAQuarterOfThePlacesBack(t *testing.T) {
	t.Parallel()
	b := openBus(t, Config{})
	finish := make(chan struct{})
	var mu sync.Mutex
	running := 0
	g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}, InFlight: 4, Policy: Policy{Timeout: 20 * time.Millisecond}}
	handle(t, b, g, AllStreams, func(context.Context, *Delivery) error {
		mu.Lock()
		running++
		mu.Unlock()
		<-finish
		return nil
	})
	publish(t, b, events(10, "booking.created")...)
	awaitFact(t, "a fifth handler", func() bool { mu.Lock(); defer mu.Unlock(); return running == 5 })
	awaitFact(t, "stuck handlers in the report", func() bool {
		n := 0
		for _, p := range b.Health(t.Context()).Problems {
			if p.Code == "handler-stuck" {
				n++
			}
		}
		return n == 5
	})
	mu.Lock()
	if running != 5 {
		t.Errorf("%d handlers run, want 4 and a quarter more", running)
	}
	mu.Unlock()
	close(finish)
}

// A failed delivery with PerSubject comes before what waits behind it, and holds no other subject up.
func TestPerSubjectFailureHoldsItsSubjectOnly(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		var mu sync.Mutex
		order := map[string][]string{}
		g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}, InFlight: 4, Policy: Policy{PerSubject: true, Backoff: func(int) time.Duration { return 100 * time.Millisecond }}}
		handle(t, b, g, AllStreams, func(_ context.Context, d *Delivery) error {
			mu.Lock()
			defer mu.Unlock()
			order[d.Event.Subject] = append(order[d.Event.Subject], fmt.Sprint(d.Event.ID, "/", d.Attempt))
			if d.Event.ID == "a1" && d.Attempt < 3 {
				return errors.New("not yet")
			}
			return nil
		})
		publish(t, b, Event{ID: "a1", Type: "booking.x", Subject: "a"}, Event{ID: "a2", Type: "booking.x", Subject: "a"}, Event{ID: "b1", Type: "booking.x", Subject: "b"},
			Event{ID: "a3", Type: "booking.x", Subject: "a"}, Event{ID: "b2", Type: "booking.x", Subject: "b"})
		awaitFact(t, "all of b", func() bool { mu.Lock(); defer mu.Unlock(); return len(order["b"]) == 2 })
		awaitFact(t, "all of a", func() bool { mu.Lock(); defer mu.Unlock(); return len(order["a"]) == 5 })
		mu.Lock()
		defer mu.Unlock()
		want := map[string][]string{"a": {"a1/1", "a1/2", "a1/3", "a2/1", "a3/1"}, "b": {"b1/1", "b2/1"}}
		if diff := cmp.Diff(want, order); diff != "" {
			t.Errorf("order (-want +got):\n%s", diff)
		}
	})
}
