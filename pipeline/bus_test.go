package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rishi-platform/millrace/internal/redistest"
)

// eachBus runs a test in every mode.
func eachBus(t *testing.T, test func(t *testing.T, open func(change func(*Config)) *Bus)) {
	t.Parallel()
	for _, mode := range []Mode{ModeLocal, ModeHybrid, ModeRedis} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			namespace := redistest.Namespace(t)
			test(t, func(change func(*Config)) *Bus {
				cfg := Config{Service: "test", Namespace: namespace}
				if mode != ModeLocal {
					cfg.Redis = redistest.Shared(t).Options()
				}
				cfg.RedisOnly = mode == ModeRedis
				if change != nil {
					change(&cfg)
				}
				return openBus(t, cfg)
			})
		})
	}
}

func openBus(t testing.TB, cfg Config) *Bus {
	t.Helper()
	b, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { closeBus(t, b) })
	return b
}

func closeBus(t testing.TB, b *Bus) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := b.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
}

func publish(t testing.TB, b *Bus, events ...Event) Receipt {
	t.Helper()
	r, err := b.Publish(t.Context(), events...)
	if err != nil {
		t.Fatalf("publish: %v", err)
	}
	return r
}

// records reads a history to its end.
func records(t testing.TB, b *Bus, q Query) []Record {
	t.Helper()
	var all []Record
	for r, err := range b.History(t.Context(), q) {
		if err != nil {
			t.Fatalf("history: %v", err)
		}
		all = append(all, r)
	}
	return all
}

func ids(records []Record) []string {
	var ids []string
	for _, r := range records {
		ids = append(ids, r.ID)
	}
	return ids
}

// within waits for a value, for as long as only a broken machine takes.
func within[T any](t testing.TB, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatalf("waited in vain for %s", what)
		panic("unreachable")
	}
}

func TestPublishThenHistory(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		at := time.Date(2026, 11, 24, 10, 0, 0, 123456789, time.UTC)
		want := Event{
			ID: "e-1", Type: "booking.created", Source: "shop", Subject: "booking/1", Time: at, CorrelationID: "c-1", CausationID: "cause-1",
			OrganizationID: "org", UserID: "u", Header: map[string]string{"k": "v", HeaderTraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
			ContentType: "application/json", Data: []byte(`{"id": 1}`),
		}
		r := publish(t, b, want)
		durability := Stored
		if b.Mode() == ModeLocal {
			durability = Volatile
		}
		if got := r.Outcomes[0]; got.Durability != durability || got.Position == "" || got.ID != "e-1" {
			t.Errorf("outcome = %+v, want %v with a position", got, durability)
		}
		got := records(t, b, Query{Patterns: []string{"booking.created"}})
		if len(got) != 1 {
			t.Fatalf("history has %d records, want 1", len(got))
		}
		if diff := cmp.Diff(want, got[0].Event); diff != "" {
			t.Errorf("event changed on its way (-want +got):\n%s", diff)
		}
		if got[0].Stream != "booking" || got[0].Position != r.Outcomes[0].Position {
			t.Errorf("record stands at %s of %s, want %s of booking", got[0].Position, got[0].Stream, r.Outcomes[0].Position)
		}
	})
}

func TestHistoryMergesPagesAndFilters(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		var all []string
		for i := range 600 { // more than two pages of one stream
			e := Event{ID: fmt.Sprint("e", i), Type: []string{"booking.created", "invoice.issued", "booking.cancelled"}[i%3], Subject: fmt.Sprint("s/", i%2)}
			publish(t, b, e)
			all = append(all, e.ID)
		}
		if diff := cmp.Diff(all, sortedByTime(t, b, Query{})); diff != "" {
			t.Errorf("whole history (-want +got):\n%s", diff)
		}
		backwards := slices.Clone(all)
		slices.Reverse(backwards)
		newest := ids(records(t, b, Query{Newest: true, Limit: 10, Patterns: []string{"booking.*"}}))
		var want []string
		for _, id := range backwards {
			var i int
			fmt.Sscanf(id, "e%d", &i)
			if i%3 != 1 && len(want) < 10 {
				want = append(want, id)
			}
		}
		if !slices.Equal(newest, want) {
			t.Errorf("newest ten = %v, want %v", newest, want)
		}
		// Page by page by cursor, both ways: nothing twice, nothing missed.
		for _, backward := range []bool{false, true} {
			var paged []string
			q := Query{Limit: 7, Newest: backward}
			for {
				page := records(t, b, q)
				if len(page) == 0 {
					break
				}
				paged = append(paged, ids(page)...)
				q.Cursor = page[len(page)-1].Cursor()
			}
			slices.Sort(paged)
			sorted := slices.Sorted(slices.Values(all))
			if diff := cmp.Diff(sorted, paged); diff != "" {
				t.Errorf("pages, newest first %v (-want +got):\n%s", backward, diff)
			}
		}
		if got := len(records(t, b, Query{Subject: "s/1"})); got != 300 {
			t.Errorf("subject filter finds %d, want 300", got)
		}
		var scan *ScanLimitError
		for _, err := range b.History(t.Context(), Query{Scan: 100}) {
			if err != nil && !errors.As(err, &scan) {
				t.Fatalf("history: %v", err)
			}
		}
		if scan == nil || scan.Cursor == "" || !errors.Is(scan, ErrScanLimit) {
			t.Errorf("scan limit = %+v, want an error with a cursor", scan)
		}
	})
}

// sortedByTime reads the history and brings what was stored in the same millisecond into the order of publishing.
func sortedByTime(t *testing.T, b *Bus, q Query) []string {
	got := records(t, b, q)
	if !slices.IsSortedFunc(got, func(a, b Record) int { return a.Position.Compare(b.Position) }) {
		t.Error("history is not in the order of positions")
	}
	slices.SortStableFunc(got, func(a, b Record) int {
		var i, j int
		fmt.Sscanf(a.ID, "e%d", &i)
		fmt.Sscanf(b.ID, "e%d", &j)
		return i - j
	})
	return ids(got)
}

func TestSubscribeHearsWhatIsPublishedAfterIt(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		publish(t, b, Event{ID: "before", Type: "booking.created"})
		heard := make(chan Event, 100)
		id, err := b.Subscribe(t.Context(), Subscription{Patterns: []string{"booking.*"}}, func(ctx context.Context, e Event) error {
			if CorrelationID(ctx) != e.CorrelationID {
				t.Errorf("ctx carries correlation %q, want %q", CorrelationID(ctx), e.CorrelationID)
			}
			heard <- e
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for i := range 50 {
			e := Event{ID: fmt.Sprint("e", i), Type: "booking.created"}
			publish(t, b, e, Event{Type: "invoice.issued"})
			want = append(want, e.ID)
		}
		var got []string
		for range want {
			got = append(got, within(t, "an event", heard).ID)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("heard (-want +got):\n%s", diff)
		}
		if err := b.Unsubscribe(id); err != nil {
			t.Errorf("unsubscribe: %v", err)
		}
		if err := b.Unsubscribe(id); !errors.Is(err, ErrUnknownSubscription) {
			t.Errorf("second unsubscribe = %v, want ErrUnknownSubscription", err)
		}
	})
}

func TestSubscribeFromOldestAndToStreamsMadeLater(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		publish(t, b, Event{ID: "old", Type: "booking.created"})
		heard := make(chan string, 10)
		if _, err := b.Subscribe(t.Context(), Subscription{From: Oldest}, func(_ context.Context, e Event) error { heard <- e.ID; return nil }); err != nil {
			t.Fatal(err)
		}
		if got := within(t, "the old event", heard); got != "old" {
			t.Errorf("heard %s, want old", got)
		}
		publish(t, b, Event{ID: "later", Type: "latecomer.made"})
		if got := within(t, "an event of a stream made later", heard); got != "later" {
			t.Errorf("heard %s, want later", got)
		}
	})
}

func TestTwoInstancesHearEachOther(t *testing.T) {
	t.Parallel()
	cfg := Config{Redis: redistest.Shared(t).Options(), Namespace: redistest.Namespace(t)}
	one, two := openBus(t, cfg), openBus(t, cfg)
	heard := make(chan string, 10)
	for _, b := range []*Bus{one, two} {
		if _, err := b.Subscribe(t.Context(), Subscription{}, func(_ context.Context, e Event) error { heard <- b.instance + e.ID; return nil }); err != nil {
			t.Fatal(err)
		}
	}
	publish(t, one, Event{ID: "e", Type: "booking.created"})
	got := []string{within(t, "an event", heard), within(t, "an event", heard)}
	slices.Sort(got)
	want := []string{one.instance + "e", two.instance + "e"}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("heard %v, want each instance once: %v", got, want)
	}
}

func TestLocalOnlyReachesThisProcessOnly(t *testing.T) {
	t.Parallel()
	cfg := Config{Redis: redistest.Shared(t).Options(), Namespace: redistest.Namespace(t)}
	one, two := openBus(t, cfg), openBus(t, cfg)
	heard := make(chan string, 10)
	for _, b := range []*Bus{one, two} {
		if _, err := b.Subscribe(t.Context(), Subscription{Patterns: []string{"booking.*"}}, func(_ context.Context, e Event) error { heard <- b.instance + e.ID; return nil }); err != nil {
			t.Fatal(err)
		}
	}
	r, err := one.PublishWith(t.Context(), PublishOptions{Scope: LocalOnly}, Event{ID: "local", Type: "booking.created"})
	if err != nil || r.Durability() != Volatile {
		t.Fatalf("publish = %v, %v, want volatile", r.Durability(), err)
	}
	if got := within(t, "the local event", heard); got != one.instance+"local" {
		t.Errorf("heard %s, want %slocal", got, one.instance)
	}
	// An event that everybody hears comes after it: if the local one had come to two, it would be first.
	publish(t, one, Event{ID: "shared", Type: "booking.created"})
	got := []string{within(t, "an event", heard), within(t, "an event", heard)}
	slices.Sort(got)
	want := []string{one.instance + "shared", two.instance + "shared"}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("heard %v, want %v", got, want)
	}
	if got := ids(records(t, one, Query{Source: FromRedis})); !slices.Equal(got, []string{"shared"}) {
		t.Errorf("redis holds %v, want only the shared event", got)
	}
	got = ids(records(t, one, Query{}))
	slices.Sort(got) // two clocks gave them their positions
	if !slices.Equal(got, []string{"local", "shared"}) {
		t.Errorf("all sources hold %v, want local and shared, each once", got)
	}
}

func TestPublishRefusesWhatIsInvalidAsAWhole(t *testing.T) {
	t.Parallel()
	b := openBus(t, Config{})
	_, err := b.Publish(t.Context(), Event{Type: "booking.created"}, Event{Type: "Booking"}, Event{Type: "system.x"}, Event{
		Type: "a.b", ID: "with space", Header: map[string]string{"millrace_hop": "x"}, Data: make([]byte, 2<<20)})
	var invalid *ValidationError
	if !errors.As(err, &invalid) || !errors.Is(err, ErrInvalid) || !errors.Is(err, ErrTooLarge) {
		t.Fatalf("error = %v, want a *ValidationError that is ErrInvalid and ErrTooLarge", err)
	}
	var got []string
	for _, f := range invalid.Faults {
		got = append(got, fmt.Sprint(f.Index, " ", f.Field))
	}
	slices.Sort(got)
	want := []string{"1 type", "2 type", "3 data", "3 header.millrace_hop", "3 id"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}
	if n := len(records(t, b, Query{})); n != 0 {
		t.Errorf("%d events were published all the same", n)
	}
}

// F62: what a handler publishes shares the correlation of what it handles, and is caused by it.
func TestF62CorrelationAndCausationTravelThroughCtx(t *testing.T) {
	t.Parallel()
	b := openBus(t, Config{})
	done := make(chan Event, 1)
	hop := func(pattern string, next string) {
		if _, err := b.Subscribe(t.Context(), Subscription{Patterns: []string{pattern}}, func(ctx context.Context, e Event) error {
			if next == "" {
				done <- e
				return nil
			}
			_, err := b.Publish(ctx, Event{Type: next, ID: next})
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	hop("a.start", "b.middle")
	hop("b.middle", "c.end")
	hop("c.end", "")
	if _, err := b.Publish(WithCorrelationID(t.Context(), "story"), Event{Type: "a.start", ID: "first"}); err != nil {
		t.Fatal(err)
	}
	got := within(t, "the third event", done)
	if got.CorrelationID != "story" || got.CausationID != "b.middle" {
		t.Errorf("third event has correlation %q, causation %q, want story, b.middle", got.CorrelationID, got.CausationID)
	}
}

// Events of one subject from one caller are stored in call order, whatever the other callers do.
func TestOrderOfOneSubjectFromOneCaller(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(func(c *Config) { c.LocalMaxLen = 100_000 })
		const callers, calls, batch = 8, 40, 5
		var all sync.WaitGroup
		for caller := range callers {
			all.Go(func() {
				for call := range calls {
					var events []Event
					for i := range batch {
						events = append(events, Event{Type: "order.step", Subject: fmt.Sprint("order/", caller), ID: fmt.Sprintf("%d/%05d", caller, call*batch+i)})
					}
					if _, err := b.Publish(t.Context(), events...); err != nil {
						t.Errorf("publish: %v", err)
						return
					}
				}
			})
		}
		all.Wait()
		last := map[string]string{}
		n := 0
		for r, err := range b.History(t.Context(), Query{}) {
			if err != nil {
				t.Fatal(err)
			}
			if r.ID <= last[r.Subject] {
				t.Errorf("%s: %s stands behind %s", r.Subject, r.ID, last[r.Subject])
			}
			last[r.Subject] = r.ID
			n++
		}
		if n != callers*calls*batch {
			t.Errorf("history has %d events, want %d", n, callers*calls*batch)
		}
	})
}

func TestCloseRefusesWhatComesLater(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		publish(t, b, Event{Type: "a.b"})
		closeBus(t, b)
		if _, err := b.Publish(t.Context(), Event{Type: "a.b"}); !errors.Is(err, ErrClosed) {
			t.Errorf("publish = %v, want ErrClosed", err)
		}
		if _, err := b.Subscribe(t.Context(), Subscription{}, func(context.Context, Event) error { return nil }); err == nil {
			t.Error("subscribe on a closed bus succeeded")
		}
		if err := b.Ready(); !errors.Is(err, ErrClosed) {
			t.Errorf("ready = %v, want ErrClosed", err)
		}
	})
}
