package pipeline

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"
	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/redistest"
)

// follower is a history that is followed in the background.
type follower struct {
	records chan Record
	ended   chan error // what it ended with
	cancel  context.CancelFunc
}

func follow(t testing.TB, b *Bus, q Query) *follower {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	f := &follower{records: make(chan Record, 1000), ended: make(chan error, 1), cancel: cancel}
	q.Follow = true
	done := make(chan struct{})
	go func() {
		defer close(done)
		var end error
		for r, err := range b.History(ctx, q) {
			if err != nil {
				end = err
				continue
			}
			f.records <- r
		}
		f.ended <- end
	}()
	t.Cleanup(func() { cancel(); <-done })
	return f
}

// next returns the ID of the next event.
func (f *follower) next(t testing.TB) string {
	t.Helper()
	return within(t, "the next event of the history", f.records).ID
}

// pages reads a history page by page, by the cursor of each last record, or of the scan limit.
func pages(t testing.TB, b *Bus, q Query, most int) []string {
	t.Helper()
	var got []string
	for range most {
		var last string
		var scan *ScanLimitError
		for r, err := range b.History(t.Context(), q) {
			switch {
			case errors.As(err, &scan):
				last = scan.Cursor
			case err != nil:
				t.Fatalf("history: %v", err)
			default:
				got = append(got, r.ID)
				last = r.Cursor()
			}
		}
		if last == "" {
			return got
		}
		if err := CheckCursor(last); err != nil {
			t.Fatalf("cursor %q: %v", last, err)
		}
		q.Cursor = last
	}
	t.Fatalf("no end after %d pages", most)
	return nil
}

// Events of Redis and of this process only, side by side in the same streams: what a page ends with, the next one goes on behind.
func TestHistoryPagesHoldEachRecordOnce(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		scopes := map[Mode][]Scope{ModeLocal: {Everywhere, LocalOnly}, ModeHybrid: {Everywhere, LocalOnly, RedisOnly}, ModeRedis: {Everywhere, RedisOnly}}[b.Mode()]
		sources := map[Mode][]Source{ModeLocal: {AllSources, FromLocal}, ModeHybrid: {AllSources, FromLocal, FromRedis}, ModeRedis: {AllSources, FromRedis}}[b.Mode()]
		for i := range 40 {
			for _, scope := range scopes {
				e := Event{ID: fmt.Sprint(scope, "-", i), Type: []string{"booking.created", "invoice.issued"}[i%2]}
				if _, err := b.PublishWith(t.Context(), PublishOptions{Scope: scope}, e); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, source := range sources {
			for _, newest := range []bool{false, true} {
				whole := Query{Source: source, Newest: newest}
				want := ids(records(t, b, whole))
				if len(want) < 40 {
					t.Fatalf("source %q has %d records", source, len(want))
				}
				for _, size := range []Query{{Limit: 1}, {Limit: 7}, {Scan: 1}, {Limit: 3, Scan: 4}} {
					q := whole
					q.Limit, q.Scan = size.Limit, size.Scan
					if diff := cmp.Diff(want, pages(t, b, q, 500)); diff != "" {
						t.Errorf("source %q, newest first %v, limit %d, scan %d: pages (-want +got):\n%s", source, newest, q.Limit, q.Scan, diff)
					}
				}
			}
		}
	})
}

// The memory and Redis give IDs in the same stream, and may give the same one.
func TestHistoryPagesPartEqualPositions(t *testing.T) {
	t.Parallel()
	namespace := redistest.Namespace(t)
	b := openBus(t, Config{Redis: redistest.Shared(t).Options(), Namespace: namespace})
	client := redistest.Shared(t).Client(t)
	var stored []string
	for i := range 50 {
		r, err := b.PublishWith(t.Context(), PublishOptions{Scope: LocalOnly}, Event{ID: fmt.Sprint("local", i), Type: "booking.created"})
		if err != nil {
			t.Fatal(err)
		}
		id := fmt.Sprint("redis", i)
		xadd(t, client, namespace+":booking", string(r.Outcomes[0].Position), redisstream.FieldUUID, id)
		stored = append(stored, id, fmt.Sprint("local", i))
	}
	q := Query{Streams: []string{"booking"}, Limit: 1}
	if diff := cmp.Diff(stored, pages(t, b, q, 200)); diff != "" {
		t.Errorf("pages (-want +got):\n%s", diff)
	}
	slices.Reverse(stored)
	q.Newest = true
	if diff := cmp.Diff(stored, pages(t, b, q, 200)); diff != "" {
		t.Errorf("pages, newest first (-want +got):\n%s", diff)
	}
}

// Other software may choose the last ID there can be: nothing stands behind it.
func TestHistoryEndsBehindTheLastID(t *testing.T) {
	t.Parallel()
	namespace := redistest.Namespace(t)
	b := openBus(t, Config{Redis: redistest.Shared(t).Options(), Namespace: namespace})
	client := redistest.Shared(t).Client(t)
	want := []string{"first", "last"}
	xadd(t, client, namespace+":booking", "0-1", redisstream.FieldUUID, "first")
	xadd(t, client, namespace+":booking", redisstream.MaxID.String(), redisstream.FieldUUID, "last")
	for _, newest := range []bool{false, true} {
		if got := pages(t, b, Query{Streams: []string{"booking"}, Limit: 1, Newest: newest}, 10); !slices.Equal(got, want) {
			t.Errorf("newest first %v: pages hold %v, want %v", newest, got, want)
		}
		slices.Reverse(want)
	}
}

func TestCursorIsRead(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]place{
		"5-1@booking":       {redisstream.ID{MS: 5, Seq: 1}, "booking", false}, // the form of older versions, too
		"5-1@booking@local": {redisstream.ID{MS: 5, Seq: 1}, "booking", true},
		"5-1@local":         {redisstream.ID{MS: 5, Seq: 1}, "local", false},
		"5-1@local@local":   {redisstream.ID{MS: 5, Seq: 1}, "local", true},
	} {
		got, err := parseCursor(text)
		if err != nil || got != want || got.String() != text {
			t.Errorf("%s: %+v %q, %v; want %+v", text, got, got.String(), err, want)
		}
	}
	for _, text := range []string{"5-1", "@", "5-1@", "x@booking", "5-1@Booking", "5-1@booking@redis", "5-1@booking@", "5-1@booking@local@local"} {
		if CheckCursor(text) == nil {
			t.Errorf("%q is taken for a cursor", text)
		}
	}
	handmade := Record{Stream: "booking", Position: "5-1", Local: true}
	if got := handmade.Cursor(); got != "5-1@booking@local" {
		t.Errorf("cursor of a record that was made by hand is %q", got)
	}
}

func FuzzCursor(f *testing.F) {
	f.Add("5-1@booking")
	f.Add("5-1@booking@local")
	f.Fuzz(func(t *testing.T, text string) {
		at, err := parseCursor(text)
		if err != nil || at.stream == "" {
			return
		}
		again, err := parseCursor(at.String())
		if err != nil || again != at {
			t.Errorf("%q is %+v, and that as text %+v, %v", text, at, again, err)
		}
	})
}

func TestNextPageFollowsTheSizeOfTheEntries(t *testing.T) {
	t.Parallel()
	page := func(n, size int) []redisstream.Entry {
		entries := make([]redisstream.Entry, n)
		for i := range entries {
			entries[i] = redisstream.NewEntry(redisstream.ID{}, []string{redisstream.FieldPayload, strings.Repeat("x", size)})
		}
		return entries
	}
	for name, test := range map[string]struct {
		asked, came, size int
		want              int
	}{
		"small ones":      {32, 32, 100, 64},
		"up to a bound":   {256, 256, 100, 256},
		"the last page":   {64, 10, 100, 64},
		"none":            {64, 0, 0, 64},
		"large ones":      {32, 32, 1 << 20, 3},
		"one larger than": {1, 1, 8 << 20, 1},
		"small ones now":  {3, 3, 100, 6},
		"without fields":  {32, 32, 0, 64},
	} {
		if got := nextPage(test.asked, page(test.came, test.size)); got != test.want {
			t.Errorf("%s: next page %d, want %d", name, got, test.want)
		}
	}
}

// Page after page of large entries and of small ones: nothing is missed where the size of the pages changes.
func TestHistoryOfEntriesOfDifferentSize(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		var want []string
		for i := range 200 {
			e := Event{ID: fmt.Sprint("e", i), Type: "booking.created"}
			if i%50 < 5 {
				e.Data = fmt.Appendf(nil, "%q", strings.Repeat("x", 1<<19))
			}
			publish(t, b, e)
			want = append(want, e.ID)
		}
		if diff := cmp.Diff(want, ids(records(t, b, Query{}))); diff != "" {
			t.Errorf("history (-want +got):\n%s", diff)
		}
	})
}

func TestFollowFromNow(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		publish(t, b, Event{ID: "old", Type: "booking.created"}, Event{ID: "old-too", Type: "invoice.issued"})
		f := follow(t, b, Query{After: Now})
		// When it has begun only its first event tells. From there on it yields each.
		var first string
		n := 0
		for ; first == ""; n++ {
			publish(t, b, Event{ID: fmt.Sprint(n), Type: "booking.created"})
			select {
			case r := <-f.records:
				first = r.ID
			case <-time.After(10 * time.Millisecond):
			}
		}
		var begun int
		if _, err := fmt.Sscan(first, &begun); err != nil {
			t.Fatalf("the first event is %q, stored before the loop began", first)
		}
		for i := begun + 1; i < n; i++ {
			if got := f.next(t); got != fmt.Sprint(i) {
				t.Fatalf("event %s, want %d", got, i)
			}
		}
		f.cancel()
		if err := within(t, "the end", f.ended); err != context.Canceled {
			t.Errorf("it ends with %v, want the cause of its ctx", err)
		}
	})
}

func TestFollowEndsAtUntil(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		until := time.Now().Add(500 * time.Millisecond)
		f := follow(t, b, Query{Until: until})
		publish(t, b, Event{ID: "before", Type: "booking.created"})
		if got := f.next(t); got != "before" {
			t.Errorf("event %s, want the one before", got)
		}
		<-time.After(time.Until(until)) // the fact that the rest is about
		publish(t, b, Event{ID: "after", Type: "booking.created"}, Event{ID: "after-too", Type: "invoice.issued"})
		if err := within(t, "the end", f.ended); err != nil {
			t.Errorf("it ends with %v, want no error", err)
		}
		select {
		case r := <-f.records:
			t.Errorf("it yields %s, which was stored after Until", r.ID)
		default:
		}
		if time.Now().Before(until) {
			t.Error("it ended before Until")
		}
	})
}

func TestFollowGoesOnOverAnOutage(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	b := openBus(t, Config{Redis: server.Options()})
	publish(t, b, Event{ID: "before", Type: "booking.created"}, Event{ID: "before-too", Type: "invoice.issued"})
	f := follow(t, b, Query{})
	for range 2 {
		f.next(t)
	}
	server.Kill(t)
	if _, err := b.PublishWith(t.Context(), PublishOptions{Scope: LocalOnly}, Event{ID: "local", Type: "booking.created"}); err != nil {
		t.Fatal(err)
	}
	if got := f.next(t); got != "local" {
		t.Errorf("during the outage: event %s, want the local one", got)
	}
	server.StartAgain(t)
	publish(t, b, Event{ID: "after", Type: "booking.created"})
	if got := f.next(t); got != "after" {
		t.Errorf("after the outage: event %s, want the one stored after it", got)
	}
	closeBus(t, b)
	if err := within(t, "the end", f.ended); !errors.Is(err, ErrClosed) {
		t.Errorf("it ends with %v, want ErrClosed", err)
	}
}

// What other software stored in a stream that is registered later may stand before what was asked for.
func TestFollowBeginsInStreamsFoundLaterWhereItWasTold(t *testing.T) {
	t.Parallel()
	namespace := redistest.Namespace(t)
	b := openBus(t, Config{Redis: redistest.Shared(t).Options(), Namespace: namespace})
	client := redistest.Shared(t).Client(t)
	hour := time.Now().Add(-time.Hour)
	for _, stream := range []string{"booking", "legacy"} {
		for i, at := range []time.Time{hour.Add(-time.Minute), hour, hour.Add(time.Minute)} {
			xadd(t, client, namespace+":"+stream, fmt.Sprint(at.UnixMilli(), "-1"), redisstream.FieldUUID, fmt.Sprint(stream, i))
		}
	}
	publish(t, b, Event{ID: "known", Type: "booking.created"}) // which registers the first of them
	var checks []func()
	for name, test := range map[string]struct {
		query Query
		want  []string
	}{
		"since":  {Query{Since: hour}, []string{"booking1", "booking2", "known", "legacy1", "legacy2", "found"}},
		"after":  {Query{After: At(hour)}, []string{"booking1", "booking2", "known", "legacy1", "legacy2", "found"}},
		"cursor": {Query{Cursor: fmt.Sprint(hour.UnixMilli(), "-1@booking")}, []string{"booking2", "known", "legacy1", "legacy2", "found"}},
		"now":    {Query{After: Now}, []string{"found"}},
	} {
		f := follow(t, b, test.query)
		var got []string
		tick := func() (ticked bool) { // tells that the follower has begun
			publish(t, b, Event{ID: "tick", Type: "booking.ticks"})
			select {
			case r := <-f.records:
				if r.ID != "tick" {
					got = append(got, r.ID)
				}
				return true
			case <-time.After(10 * time.Millisecond):
				return false
			}
		}
		awaitFact(t, name, tick)
		checks = append(checks, func() {
			for len(got) < len(test.want) {
				if id := f.next(t); id != "tick" {
					got = append(got, id)
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("%s: followed (-want +got):\n%s", name, diff)
			}
		})
	}
	publish(t, b, Event{ID: "found", Type: "legacy.created"})
	for _, check := range checks {
		check()
	}
}

// XREAD of several streams is CROSSSLOT in a cluster.
func TestFollowSeveralStreamsInCluster(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--cluster-enabled", "yes")
	client := server.Client(t)
	if err := client.Do(t.Context(), "CLUSTER", "ADDSLOTSRANGE", 0, 16383).Err(); err != nil {
		t.Fatal(err)
	}
	awaitFact(t, "the cluster", func() bool {
		return strings.Contains(client.ClusterInfo(t.Context()).Val(), "cluster_state:ok")
	})
	b := openBus(t, Config{Redis: &redis.UniversalOptions{Addrs: []string{server.Addr()}, IsClusterMode: true}})
	publish(t, b, Event{ID: "1", Type: "aaa.x"})
	publish(t, b, Event{ID: "2", Type: "bbb.x"})
	for _, patterns := range [][]string{nil, {"aaa.*"}} {
		f := follow(t, b, Query{Patterns: patterns})
		f.next(t)
		publish(t, b, Event{ID: "3", Type: "aaa.x"})
		if got := f.next(t); patterns == nil && got != "2" || patterns != nil && got != "3" {
			t.Errorf("%v: event %s", patterns, got)
		}
	}
}

// awaitFact waits until something is so.
func awaitFact(t testing.TB, what string, fact func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !fact(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// One key of another type among the streams hides no other.
func TestF41HistoryLeavesOutAKeyOfAnotherType(t *testing.T) {
	t.Parallel()
	namespace := redistest.Namespace(t)
	b := openBus(t, Config{Redis: redistest.Shared(t).Options(), Namespace: namespace})
	client := redistest.Shared(t).Client(t)
	publish(t, b, Event{ID: "e", Type: "booking.created"})
	f := follow(t, b, Query{})
	f.next(t)
	client.Set(t.Context(), namespace+":bad", "x", 0)
	if _, err := b.Publish(t.Context(), Event{Type: "bad.x"}); !errors.Is(err, ErrDenied) {
		t.Fatalf("publish: %v", err)
	}
	if got := ids(records(t, b, Query{Newest: true})); !slices.Equal(got, []string{"e"}) {
		t.Errorf("history of all streams holds %v, want e", got)
	}
	for _, q := range []Query{{Patterns: []string{"bad.*"}}, {Streams: []string{"booking", "bad"}}, {Streams: []string{"bad"}, Follow: true}, {Streams: []string{"bad"}, After: Now, Follow: true}} {
		var refused *RedisError
		for _, err := range b.History(t.Context(), q) {
			errors.As(err, &refused)
		}
		if refused == nil || refused.Kind != ErrDenied || refused.Key != namespace+":bad" {
			t.Errorf("%+v ends with %v, want it denied with the key", q, refused)
		}
	}
	// Both who was there before and who comes now goes on: also when the follower has found the bad key.
	late := follow(t, b, Query{})
	late.next(t)
	publish(t, b, Event{ID: "new", Type: "other.x"})
	for name, f := range map[string]*follower{"before": f, "now": late} {
		if got := f.next(t); got != "new" {
			t.Errorf("%s: event %s, want that of the stream made later", name, got)
		}
	}
}

// After a FLUSHALL the stream begins anew, here with IDs that lie before those that were seen.
func TestF02FollowGoesOnAfterAFlush(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	b := openBus(t, Config{Redis: server.Options()})
	publish(t, b, Event{ID: "before", Type: "booking.created"})
	f := follow(t, b, Query{})
	f.next(t)
	xadd(t, server.Client(t), "booking", fmt.Sprint(time.Now().Add(time.Hour).UnixMilli(), "-1"), redisstream.FieldUUID, "future")
	if got := f.next(t); got != "future" {
		t.Errorf("event %s, want the one of the future", got)
	}
	server.Flush(t)
	publish(t, b, Event{ID: "after", Type: "booking.created"})
	if got := f.next(t); got != "after" {
		t.Errorf("event %s, want the one after the flush", got)
	}
}

func TestMarkTellsAStreamThatWasMadeAnew(t *testing.T) {
	t.Parallel()
	id := func(ms uint64) redisstream.ID { return redisstream.ID{MS: ms} }
	info := func(first, last uint64, length, added int64) redisstream.StreamInfo {
		return redisstream.StreamInfo{Exists: true, First: id(first), Last: id(last), Length: length, EntriesAdded: added}
	}
	for name, test := range map[string]struct {
		before, now redisstream.StreamInfo
		behind      uint64
		back        bool
	}{
		"unchanged":                   {info(10, 90, 9, 9), info(10, 90, 9, 9), 0, false},
		"grown":                       {info(10, 90, 9, 9), info(10, 99, 10, 10), 0, false},
		"trimmed":                     {info(10, 90, 9, 9), info(80, 99, 2, 10), 0, false},
		"gone":                        {info(10, 90, 9, 9), redisstream.StreamInfo{}, 0, false},
		"gone and back":               {redisstream.StreamInfo{}, info(10, 90, 9, 9), 0, false},
		"made anew, earlier IDs":      {info(10, 90, 9, 9), info(5, 7, 2, 2), 0, true},
		"made anew, IDs in between":   {info(10, 90, 9, 9), info(50, 70, 2, 2), 0, true},
		"made anew, later IDs":        {info(10, 90, 9, 9), info(91, 92, 2, 2), 0, false},
		"has lost its end":            {info(10, 90, 9, 9), info(10, 80, 8, 8), 80, true},
		"has lost its end, trimmed":   {info(50, 90, 5, 9), info(40, 80, 5, 8), 80, true},
		"empty, then made anew":       {info(0, 90, 0, 9), info(5, 7, 2, 2), 0, true},
		"all removed, none lost":      {info(10, 90, 9, 9), info(0, 90, 0, 9), 0, false},
		"not known, whatever it says": {redisstream.StreamInfo{}, info(1, 1, 1, 1), 0, false},
	} {
		var m mark
		m.look(test.before)
		behind, back := m.look(test.now)
		if behind != id(test.behind) || back != test.back {
			t.Errorf("%s: behind %v %v, want %d %v", name, behind, back, test.behind, test.back)
		}
	}
}

func TestNewSince(t *testing.T) {
	t.Parallel()
	now := time.Now()
	begun := now.Add(-time.Minute)
	ms := func(t time.Time) uint64 { return uint64(t.UnixMilli()) }
	for name, test := range map[string]struct{ last, from, to uint64 }{
		"a clock like ours": {ms(now), ms(begun.Add(-2 * foundMargin)), ms(begun)},
		"one that is late":  {ms(now.Add(-time.Hour)), ms(begun.Add(-time.Hour - 2*foundMargin)), ms(begun.Add(-time.Hour))},
		"one that is early": {ms(now.Add(time.Hour)), ms(begun.Add(-2 * foundMargin)), ms(begun)},
		"IDs of its own":    {5, 0, 0},
		"the last of all":   {math.MaxUint64, ms(begun.Add(-2 * foundMargin)), ms(begun)},
		"an empty stream":   {0, 0, 0},
	} {
		got := newSince(redisstream.StreamInfo{Exists: true, Last: redisstream.ID{MS: test.last}}, begun).MS
		if got < test.from || got > test.to {
			t.Errorf("%s: new behind %d, want %d to %d", name, got, test.from, test.to)
		}
	}
}
