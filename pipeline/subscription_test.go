package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/redistest"
)

// hears subscribes and returns the IDs of what is heard.
func hears(t testing.TB, b *Bus, s Subscription) <-chan string {
	t.Helper()
	heard := make(chan string, 10_000)
	subscribe(t, b, s, func(_ context.Context, e Event) error { heard <- e.ID; return nil })
	return heard
}

func subscribe(t testing.TB, b *Bus, s Subscription, fn func(context.Context, Event) error) (id string) {
	t.Helper()
	id, err := b.Subscribe(t.Context(), s, fn)
	if err != nil {
		t.Fatalf("subscribe: %v", err)
	}
	return id
}

// wantHeard takes as many events as are wanted, in this order.
func wantHeard(t testing.TB, heard <-chan string, want ...string) {
	t.Helper()
	var got []string
	for range want {
		got = append(got, within(t, fmt.Sprintf("an event, heard %v of %v", got, want), heard))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("heard (-want +got):\n%s", diff)
	}
}

// quiet is an error if something more was heard by now.
func quiet(t testing.TB, heard <-chan string) {
	t.Helper()
	select {
	case id := <-heard:
		t.Errorf("heard %s, which was not wanted", id)
	default:
	}
}

// logged collects the lines of a logger.
type logged struct {
	mu    sync.Mutex
	lines []string
	slog.Handler
}

func newLogged() *logged {
	l := &logged{}
	l.Handler = slog.NewTextHandler(l, nil)
	return l
}

func (l *logged) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(line))
	return len(line), nil
}

// with returns the lines that hold all of these texts.
func (l *logged) with(texts ...string) (lines []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(line, text) }) {
			lines = append(lines, line)
		}
	}
	return lines
}

func TestSubscribeFromAPositionHearsTheEventThere(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		var positions []Position
		for i := range 3 {
			r := publish(t, b, Event{ID: fmt.Sprint(i), Type: "booking.created"})
			positions = append(positions, r.Outcomes[0].Position)
			awaitFact(t, "the next millisecond", func() bool { return At(time.Now()).Compare(r.Outcomes[0].Position) > 0 })
		}
		at, _ := positions[1].Time()
		for _, patterns := range [][]string{{"booking.*"}, {"**"}} {
			for _, from := range []Position{positions[1], At(at)} {
				heard := hears(t, b, Subscription{Patterns: patterns, From: from})
				wantHeard(t, heard, "1", "2")
				quiet(t, heard)
			}
		}
		wantHeard(t, hears(t, b, Subscription{From: Oldest}), "0", "1", "2")
		future := hears(t, b, Subscription{Patterns: []string{"booking.*"}, From: At(time.Now().Add(time.Hour))})
		now := hears(t, b, Subscription{Patterns: []string{"booking.*"}, From: " now "})
		publish(t, b, Event{ID: "3", Type: "booking.created"})
		wantHeard(t, now, "3")
		quiet(t, now)
		quiet(t, future)
	})
}

// A stream that other software has filled is not new because it is registered only now; one that is made now is, as a whole.
func TestSubscribeFromNowHearsOnlyWhatIsNewInStreamsFoundLater(t *testing.T) {
	t.Parallel()
	namespace := redistest.Namespace(t)
	b := openBus(t, Config{Redis: redistest.Shared(t).Options(), Namespace: namespace})
	hour := time.Now().Add(-time.Hour).UnixMilli()
	for i := range 100 {
		xadd(t, redistest.Shared(t).Client(t), namespace+":legacy", fmt.Sprint(hour, "-", i), "n", "1")
	}
	heard := hears(t, b, Subscription{})
	publish(t, b, Event{ID: "fresh", Type: "fresh.made"}, Event{ID: "legacy", Type: "legacy.made"}, Event{ID: "legacy-2", Type: "legacy.made"})
	got := []string{within(t, "an event", heard), within(t, "an event", heard), within(t, "an event", heard)}
	slices.Sort(got)
	if want := []string{"fresh", "legacy", "legacy-2"}; !slices.Equal(got, want) {
		t.Errorf("heard %v, want %v", got, want)
	}
	publish(t, b, Event{ID: "more", Type: "legacy.made"})
	wantHeard(t, heard, "more")
}

// Each subscription goes at its own pace and misses nothing, however slow it is.
func TestSlowSubscriptionHoldsUpNoOther(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		began, release := make(chan struct{}, 1000), make(chan struct{})
		slow := make(chan string, 1000)
		subscribe(t, b, Subscription{Patterns: []string{"booking.*"}}, func(_ context.Context, e Event) error {
			began <- struct{}{}
			<-release
			slow <- e.ID
			return nil
		})
		quick := hears(t, b, Subscription{Patterns: []string{"booking.*"}})
		var want []string
		for i := range 200 {
			want = append(want, fmt.Sprint("e", i))
		}
		publish(t, b, Event{ID: "e0", Type: "booking.created"})
		within(t, "the slow one", began)
		for _, id := range want[1:] {
			publish(t, b, Event{ID: id, Type: "booking.created"})
		}
		wantHeard(t, quick, want...)
		wantHeard(t, hears(t, b, Subscription{Patterns: []string{"booking.*"}, From: Oldest}), want...) // who comes now waits no more
		close(release)
		wantHeard(t, slow, want...)
		publish(t, b, Event{ID: "last", Type: "booking.created"})
		wantHeard(t, slow, "last")
		wantHeard(t, quick, "last")
		quiet(t, slow)
		quiet(t, quick)
	})
}

// From what is there already to what comes, and back where the function is too slow, each event is heard once, in its order.
func TestSubscriptionsOfAnyPaceHearEachEventOnceUnderLoad(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(func(c *Config) { c.LocalMaxLen = 100_000 })
		const enough = 1000
		publishing, stop := context.WithCancel(t.Context())
		var publisher, subscribers sync.WaitGroup
		begun := make(chan struct{})
		publisher.Go(func() {
			for i := 0; publishing.Err() == nil; i++ {
				publish(t, b, Event{ID: strconv.Itoa(i), Type: "booking.created", Subject: "s"})
				if i == 300 {
					close(begun)
				}
			}
		})
		within(t, "300 events", begun)
		for n := range 12 {
			subscribers.Go(func() {
				next, full := 0, make(chan struct{})
				id := subscribe(t, b, Subscription{Patterns: []string{"booking.*"}, From: Oldest}, func(_ context.Context, e Event) error {
					if e.ID != strconv.Itoa(next) && next < enough {
						t.Errorf("subscription %d heard %s, want %d", n, e.ID, next)
						next = enough - 1
					}
					if next++; next == enough {
						close(full)
					}
					if n%3 == 0 && next%300 == 0 { // takes too long now and then
						<-time.After(2 * takeWithin)
					}
					return nil
				})
				within(t, "all events", full)
				if err := b.Unsubscribe(id); err != nil {
					t.Error(err)
				}
			})
		}
		subscribers.Wait()
		stop()
		publisher.Wait()
	})
}

func TestEachSubscriptionHasItsOwnCopyOfTheEvent(t *testing.T) {
	t.Parallel()
	b := openBus(t, Config{})
	heard := make(chan string, 2)
	for range 2 {
		subscribe(t, b, Subscription{Patterns: []string{"booking.*"}}, func(_ context.Context, e Event) error {
			heard <- e.Header["k"] + string(e.Data)
			e.Header["k"] = "changed"
			copy(e.Data, "changed")
			return nil
		})
	}
	publish(t, b, Event{Type: "booking.created", Header: map[string]string{"k": "v"}, Data: []byte(`"data"`)})
	wantHeard(t, heard, `v"data"`, `v"data"`)
	if got := records(t, b, Query{}); string(got[0].Data) != `"data"` {
		t.Errorf("a function has changed what is stored to %s", got[0].Data)
	}
}

func TestUnsubscribeInTheFunction(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		others := hears(t, b, Subscription{Patterns: []string{"booking.*"}})
		heard := make(chan string, 100)
		id := make(chan string, 1)
		id <- subscribe(t, b, Subscription{Patterns: []string{"booking.*"}}, func(ctx context.Context, e Event) error {
			heard <- e.ID
			if err := b.Unsubscribe(<-id); err != nil || ctx.Err() == nil {
				t.Errorf("unsubscribe: %v, ctx %v; want it ended", err, ctx.Err())
			}
			return nil
		})
		var want []string
		for i := range 50 {
			publish(t, b, Event{ID: fmt.Sprint(i), Type: "booking.created"})
			want = append(want, fmt.Sprint(i))
		}
		wantHeard(t, others, want...)
		wantHeard(t, heard, "0")
		quiet(t, heard)
		closeBus(t, b)
		quiet(t, heard)
	})
}

func TestSubscribeWithACtxThatHasEnded(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		publish(t, b, Event{Type: "booking.created"})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if id, err := b.Subscribe(ctx, Subscription{From: Oldest}, func(context.Context, Event) error { t.Error("heard something"); return nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("subscribe: %q, %v; want the end of ctx", id, err)
		}
		for range 50 { // it may end at any step
			ctx, cancel := context.WithCancel(t.Context())
			var all sync.WaitGroup
			all.Go(cancel)
			_, err := b.Subscribe(ctx, Subscription{From: Oldest}, func(context.Context, Event) error { return nil })
			all.Wait()
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("subscribe: %v", err)
			}
		}
		awaitFact(t, "the end of all", func() bool {
			b.mu.Lock()
			defer b.mu.Unlock()
			return len(b.subscriptions) == 0 && len(b.tails) == 0
		})
	})
}

// The functions wait for the end of their ctx, as good ones do; one subscription takes the entry, the other asks for its place in the tail.
func TestCloseWhileSubscriptionsJoinTheTail(t *testing.T) {
	t.Parallel()
	for range 20 { // chance decides which is first
		b := openBus(t, Config{})
		began := make(chan struct{}, 100)
		wait := func(ctx context.Context, _ Event) error {
			began <- struct{}{}
			<-ctx.Done()
			return nil
		}
		subscribe(t, b, Subscription{Patterns: []string{"booking.*"}}, wait)
		publish(t, b, Event{Type: "booking.created"})
		within(t, "the function", began)
		for range 3 {
			subscribe(t, b, Subscription{Patterns: []string{"booking.*"}}, wait)
		}
		publish(t, b, Event{Type: "booking.created"})
		closeBus(t, b)
	}
}

func TestCloseWhileASubscriptionCatchesUp(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		publish(t, b, events(500, "booking.created")...)
		heard := make(chan string, 1000)
		closed := make(chan struct{})
		n := 0
		subscribe(t, b, Subscription{From: Oldest}, func(ctx context.Context, e Event) error {
			heard <- e.ID
			if n++; n == 100 {
				go func() { closeBus(t, b); close(closed) }()
				<-ctx.Done()
			}
			return nil
		})
		for range 100 {
			within(t, "an event", heard)
		}
		within(t, "the end", closed)
		quiet(t, heard)
	})
}

// A subscription that has ended is forgotten, but not its function, which may still use the bus.
func TestCloseWaitsForTheFunctionOfASubscriptionThatHasEnded(t *testing.T) {
	t.Parallel()
	b := openBus(t, Config{})
	began, release := make(chan struct{}), make(chan struct{})
	id := subscribe(t, b, Subscription{Patterns: []string{"booking.*"}}, func(context.Context, Event) error {
		close(began)
		<-release
		return nil
	})
	publish(t, b, Event{Type: "booking.created"})
	within(t, "the function", began)
	if err := b.Unsubscribe(id); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := b.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("close: %v, want it to wait", err)
	}
	close(release)
	closeBus(t, b)
}

// A stream that can't be read is said so once, and that it can once as well.
func TestF41SubscriptionSaysWhyItHearsNothing(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := server.Client(t)
	logs := newLogged()
	b := openBus(t, Config{Redis: server.Options(), Logger: slog.New(logs)})
	publish(t, b, Event{ID: "0", Type: "booking.created"})
	heard := hears(t, b, Subscription{Patterns: []string{"booking.*"}, From: Oldest})
	wantHeard(t, heard, "0")

	// The tail: the key becomes one of another type.
	failed := regexp.MustCompile(`cmdstat_xread:.*failed_calls=([3-9]|\d\d)`)
	if err := client.Rename(t.Context(), "booking", "aside").Err(); err != nil {
		t.Fatal(err)
	}
	client.Set(t.Context(), "booking", "x", 0)
	awaitFact(t, "three tries", func() bool {
		return failed.MatchString(client.Info(t.Context(), "commandstats").Val())
	})
	client.Rename(t.Context(), "aside", "booking")
	publish(t, b, Event{ID: "1", Type: "booking.created"})
	wantHeard(t, heard, "1")
	awaitFact(t, "the word that it is over", func() bool { return len(logs.with("stream is read again", "stream=booking")) == 1 })
	if lines := logs.with("can't be read", "WRONGTYPE", "stream=booking"); len(lines) != 1 {
		t.Errorf("said %d times that the stream can't be read: %q", len(lines), lines)
	}

	// Catching up: the right is missing.
	client.Do(t.Context(), "ACL", "SETUSER", "default", "-xrange")
	late := hears(t, b, Subscription{Patterns: []string{"booking.*"}, From: Oldest})
	awaitFact(t, "a word about the right", func() bool { return len(logs.with("can't be read", "NOPERM", "stream=booking")) > 0 })
	client.Do(t.Context(), "ACL", "SETUSER", "default", "+xrange")
	wantHeard(t, late, "0", "1")
	awaitFact(t, "the word that it is over", func() bool { return len(logs.with("stream is read again", "subscription=")) == 1 })
	if lines := logs.with("can't be read", "NOPERM"); len(lines) != 1 {
		t.Errorf("said %d times that the right is missing: %q", len(lines), lines)
	}
}

// One key of another type among all streams keeps nobody from hearing the others, and is heard itself once it is a stream.
func TestF41SubscriptionToAllStreamsLeavesOutAKeyOfAnotherType(t *testing.T) {
	t.Parallel()
	namespace := redistest.Namespace(t)
	b := openBus(t, Config{Redis: redistest.Shared(t).Options(), Namespace: namespace})
	client := redistest.Shared(t).Client(t)
	client.Set(t.Context(), namespace+":bad", "x", 0)
	if _, err := b.Publish(t.Context(), Event{Type: "bad.x"}); !errors.Is(err, ErrDenied) {
		t.Fatalf("publish: %v", err)
	}
	nobody := func(context.Context, Event) error { return nil }
	for _, s := range []Subscription{{}, {Patterns: []string{"bad.*"}}, {Patterns: []string{"**", "bad.*"}}} { // all there is, or named
		if _, err := b.Subscribe(t.Context(), s, nobody); !errors.Is(err, ErrDenied) {
			t.Errorf("%v: %v, want it denied", s.Patterns, err)
		}
	}
	publish(t, b, Event{ID: "before", Type: "booking.created"})
	heard := hears(t, b, Subscription{})
	publish(t, b, Event{ID: "good", Type: "booking.created"})
	wantHeard(t, heard, "good")
	client.Del(t.Context(), namespace+":bad")
	publish(t, b, Event{ID: "mended", Type: "bad.x"})
	wantHeard(t, heard, "mended")
}

// After a FLUSHALL the stream begins anew. Its IDs are the server's clock, so they grow, unless that was set back, as the entry of the
// future stands for here.
func TestF02SubscriptionHearsWhatComesAfterAFlush(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	b := openBus(t, Config{Redis: server.Options()})
	quick := hears(t, b, Subscription{Patterns: []string{"booking.*", "booking"}})
	slow := make(chan string, 100)
	holding, release := make(chan struct{}), make(chan struct{})
	subscribe(t, b, Subscription{Patterns: []string{"booking.*", "booking"}}, func(_ context.Context, e Event) error {
		if e.ID == "future" { // it is behind while the stream is made anew
			close(holding)
			<-release
		}
		slow <- e.ID
		return nil
	})
	r := publish(t, b, Event{ID: "0", Type: "booking.created"})
	wantHeard(t, quick, "0")
	wantHeard(t, slow, "0")
	server.Flush(t)
	awaitFact(t, "the next millisecond", func() bool { return At(time.Now()).Compare(r.Outcomes[0].Position) > 0 })
	publish(t, b, Event{ID: "1", Type: "booking.created"})
	wantHeard(t, quick, "1")
	wantHeard(t, slow, "1")

	xadd(t, server.Client(t), "booking", fmt.Sprint(time.Now().Add(time.Hour).UnixMilli(), "-1"), redisstream.FieldUUID, "future")
	wantHeard(t, quick, "future")
	within(t, "the slow one", holding)
	server.Flush(t)
	publish(t, b, Event{ID: "2", Type: "booking.created"})
	wantHeard(t, quick, "2")
	publish(t, b, Event{ID: "3", Type: "booking.created"})
	wantHeard(t, quick, "3")
	close(release)
	wantHeard(t, slow, "future", "2", "3")
	wantHeard(t, hears(t, b, Subscription{Patterns: []string{"booking.*"}, From: Oldest}), "2", "3")
	publish(t, b, Event{ID: "4", Type: "booking.created"})
	wantHeard(t, quick, "4")
	wantHeard(t, slow, "4")
	quiet(t, quick)
	quiet(t, slow)
}
