package pipeline

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/redistest"
	"github.com/rishi-platform/millrace/internal/wire"
)

// hearing is what a subscription has heard and missed.
type hearing struct {
	mu     sync.Mutex
	heard  []string
	gaps   []Gap
	missed int64
}

func (h *hearing) subscribe(t testing.TB, b *Bus, s Subscription, fn func(Event)) {
	s.Gap = func(g Gap) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.gaps = append(h.gaps, g)
		h.missed += g.Missed
	}
	subscribe(t, b, s, func(_ context.Context, e Event) error {
		h.mu.Lock()
		h.heard = append(h.heard, e.ID)
		h.mu.Unlock()
		if fn != nil {
			fn(e)
		}
		return nil
	})
}

// await waits until an event is heard, and wants the heard and the missed ones to be so many, in order.
func (h *hearing) await(t testing.TB, last string, total int) {
	t.Helper()
	awaitFact(t, "event "+last, func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.heard) > 0 && h.heard[len(h.heard)-1] == last && len(h.heard)+int(h.missed) >= total
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	if got := len(h.heard) + int(h.missed); got != total || h.missed == 0 {
		t.Errorf("%d events heard and %d missed, want %d in all; gaps %+v", len(h.heard), h.missed, total, h.gaps)
	}
	for i := 1; i < len(h.heard); i++ {
		if h.heard[i] <= h.heard[i-1] {
			t.Errorf("%s comes behind %s", h.heard[i], h.heard[i-1])
		}
	}
	for _, g := range h.gaps {
		if g.Stream != "booking" || g.Reason != GapTrimmed {
			t.Errorf("gap %+v", g)
		}
	}
}

// A subscription that is slow learns how many events are gone that it should have heard, and those that keep up miss none.
func TestF60GapOfASlowSubscription(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(func(c *Config) { c.LocalMaxLen = 50 })
		events, _ := numbered(0, 400)
		var slow hearing
		begun, goOn := make(chan struct{}), make(chan struct{})
		var once sync.Once
		slow.subscribe(t, b, Subscription{Patterns: []string{"booking.*"}}, func(Event) { once.Do(func() { close(begun); <-goOn }) })
		fast := hears(t, b, Subscription{Patterns: []string{"booking.*"}})
		publish(t, b, events[0])
		within(t, "the first event", begun)
		for _, e := range events[1:300] {
			publish(t, b, e)
			within(t, "an event", fast)
		}
		if b.redis != nil {
			if err := redistest.Shared(t).Client(t).XTrimMaxLen(t.Context(), wire.Format{Namespace: b.cfg.Namespace}.Key("booking"), 60).Err(); err != nil {
				t.Fatal(err)
			}
		}
		close(goOn)
		for _, e := range events[300:] {
			publish(t, b, e)
		}
		slow.await(t, events[399].ID, 400)
	})
}

// So does one whose server was away.
func TestF60GapAfterAnOutage(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	b, proxy := behind(t, namespace)
	other := openBus(t, Config{Redis: server.Options(), Namespace: namespace})
	events, _ := numbered(0, 300)
	for i := range events {
		events[i].Subject = "one" // those of a call keep their order then
	}
	var h hearing
	h.subscribe(t, b, Subscription{Patterns: []string{"booking.*"}}, nil)
	publish(t, other, events[:100]...)
	awaitFact(t, "100 events", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return len(h.heard) == 100 })
	proxy.Refuse(true)
	proxy.Reset()
	publish(t, other, events[100:200]...)
	if err := server.Client(t).XTrimMaxLen(t.Context(), namespace+":booking", 0).Err(); err != nil { // no event that comes tells of it
		t.Fatal(err)
	}
	proxy.Refuse(false)
	awaitFact(t, "the gap", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.missed > 0 && len(h.heard)+int(h.missed) == 200
	})
	publish(t, other, events[200:]...)
	h.await(t, events[299].ID, 300)
}

func TestF60SpotCountsWhatIsGone(t *testing.T) {
	t.Parallel()
	id := func(n uint64) redisstream.ID { return redisstream.ID{MS: n} }
	stream := func(added, length int64, first, last uint64) redisstream.StreamInfo {
		return redisstream.StreamInfo{Exists: true, EntriesAdded: added, Length: length, First: id(first), Last: id(last)}
	}
	for name, test := range map[string]struct {
		at      spot
		now     redisstream.StreamInfo
		missed  int64
		reason  string
		ordinal int64
	}{
		"not made yet":            {spot{id: id(0), ordinal: 0}, redisstream.StreamInfo{}, 0, "", 0},
		"at the end":              {spot{id: id(9), ordinal: 9}, stream(9, 9, 1, 9), 0, GapTrimmed, 9},
		"behind, nothing gone":    {spot{id: id(4), ordinal: 4}, stream(9, 9, 1, 9), 0, GapTrimmed, 4},
		"gone, but seen":          {spot{id: id(4), ordinal: 4}, stream(9, 5, 5, 9), 0, GapTrimmed, 4},
		"gone, and not seen":      {spot{id: id(4), ordinal: 4}, stream(9, 2, 8, 9), 3, GapTrimmed, 7},
		"all of it":               {spot{id: id(4), ordinal: 4}, stream(9, 0, 0, 9), 5, GapTrimmed, 9},
		"went by between looks":   {spot{id: id(9), ordinal: 6}, stream(9, 2, 8, 9), 3, GapTrimmed, 9},
		"deleted from the middle": {spot{id: id(2), ordinal: 2}, stream(9, 8, 1, 9), 0, GapTrimmed, 2},
		"from the oldest":         {spot{ordinal: uncounted}, stream(9, 2, 8, 9), 0, GapTrimmed, 7},
		"from before the first":   {spot{id: id(3), ordinal: uncounted}, stream(9, 2, 8, 9), uncounted, GapTrimmed, 7},
		"from within":             {spot{id: id(8), ordinal: uncounted}, stream(9, 2, 8, 9), 0, GapTrimmed, uncounted},
		"another stream":          {spot{id: id(9), ordinal: 9}, stream(2, 2, 20, 21), uncounted, GapRecreated, 0},
	} {
		missed, reason := test.at.missed(test.now)
		if missed != test.missed || reason != test.reason || test.at.ordinal != test.ordinal {
			t.Errorf("%s: missed %d (%s), ordinal %d; want %d (%s), %d", name, missed, reason, test.at.ordinal, test.missed, test.reason, test.ordinal)
		}
	}
}

// A stream that was made anew is heard on, and that it was is told.
func TestF60RecreatedStream(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	b := openBus(t, Config{Redis: server.Options(), NoRestore: true})
	var h hearing
	h.subscribe(t, b, Subscription{Patterns: []string{"booking.*"}}, nil)
	for i := range 20 {
		publish(t, b, Event{ID: fmt.Sprint(i), Type: "booking.created"})
	}
	awaitFact(t, "20 events", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return len(h.heard) == 20 })
	server.Flush(t)
	publish(t, b, Event{ID: "after", Type: "booking.created"})
	awaitFact(t, "the gap and the event behind it", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.heard) == 21 && len(h.gaps) == 1 && h.gaps[0].Reason == GapRecreated && h.gaps[0].Missed == uncounted
	})
}
