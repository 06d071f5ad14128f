package pipeline

import (
	"context"
	"encoding/base64"
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/rishi-platform/millrace/internal/redistest"

	"github.com/rishi-platform/millrace/internal/wire"
)

// cursorAt hears up to an event and returns the cursor behind it.
func cursorAt(t *testing.T, b *Bus, s Subscription, last string) Cursor {
	t.Helper()
	cursors := make(chan Cursor, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := b.Subscribe(ctx, s, func(ctx context.Context, e Event) error {
		if e.ID == last {
			cursors <- CurrentCursor(ctx)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return within(t, "event "+last, cursors)
}

func oneByOne(t *testing.T, b *Bus, events []Event) {
	t.Helper()
	for _, e := range events {
		publish(t, b, e)
	}
}

// Who begins behind a cursor hears each event behind it once, in another process too.
func TestF60CursorGoesOn(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		events, all := numbered(0, 100)
		s := Subscription{Patterns: []string{"booking.*"}}
		oneByOne(t, b, events[:60])
		from := s
		from.From = Oldest
		s.After = cursorAt(t, b, from, all[39])
		again := b
		if b.redis != nil {
			again = open(nil)
		}
		heard := hears(t, again, s)
		wantHeard(t, heard, all[40:60]...)
		oneByOne(t, b, events[60:])
		wantHeard(t, heard, all[60:]...)
	})
}

// A subscription that has ended passes nothing over that it has not heard.
func TestF60CursorStandsStillAtTheEnd(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		events, all := numbered(0, 100)
		oneByOne(t, b, events)
		ctx, end := context.WithCancel(t.Context())
		var last Cursor
		known := make(chan struct{})
		id, err := b.Subscribe(ctx, Subscription{Patterns: []string{"booking.*"}, From: Oldest}, func(ctx context.Context, e Event) error {
			if e.ID == all[2] {
				<-known // one that has ended is not found any more
				last = CurrentCursor(ctx)
				end()
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		b.mu.Lock()
		s := b.subscriptions[id]
		b.mu.Unlock()
		close(known)
		<-ctx.Done()
		if err := b.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		want, _ := last.parse()
		got, err := s.cursor(nil).parse()
		if local := b.redis == nil; err != nil || !maps.Equal(got.spots(local), want.spots(local)) {
			t.Errorf("cursor at the end: %+v, %v; want %+v", got, err, want)
		}
	})
}

// What is gone meanwhile is told with its number.
func TestF60CursorKnowsWhatIsGone(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(func(c *Config) { c.LocalMaxLen = 30 })
		events, all := numbered(0, 100)
		s := Subscription{Patterns: []string{"booking.*"}}
		id := subscribe(t, b, s, func(context.Context, Event) error { return nil })
		oneByOne(t, b, events[:40])
		var cursor Cursor
		awaitFact(t, "40 events", func() bool {
			var err error
			if cursor, err = b.Cursor(id); err != nil {
				t.Fatal(err)
			}
			p, err := cursor.parse()
			return err == nil && p.spots(b.redis == nil)["booking"].ordinal == 40
		})
		if err := b.Unsubscribe(id); err != nil {
			t.Fatal(err)
		}
		oneByOne(t, b, events[40:])
		if b.redis != nil {
			if err := redistest.Shared(t).Client(t).XTrimMaxLen(t.Context(), wire.Format{Namespace: b.cfg.Namespace}.Key("booking"), 30).Err(); err != nil {
				t.Fatal(err)
			}
		}
		gaps := make(chan Gap, 10)
		s.After, s.Gap = cursor, func(g Gap) { gaps <- g }
		heard := hears(t, b, s)
		if g := within(t, "the gap", gaps); g.Missed != 30 || g.Reason != GapTrimmed || g.Stream != "booking" {
			t.Errorf("gap %+v", g)
		}
		wantHeard(t, heard, all[70:]...)
		if len(gaps) > 0 {
			t.Errorf("another gap: %+v", <-gaps)
		}
		if _, err := b.Cursor(id); !errors.Is(err, ErrUnknownSubscription) {
			t.Errorf("cursor of a subscription that has ended: %v", err)
		}
	})
}

// A stream that was made since is heard from its beginning, one that was made anew too, and one that passed by is not heard again.
func TestF60CursorOfOtherStreams(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		events, all := numbered(0, 10)
		oneByOne(t, b, events)
		after := cursorAt(t, b, Subscription{From: Oldest}, all[9])
		publish(t, b, Event{ID: "later", Type: "invoice.sent"})
		heard := hears(t, b, Subscription{After: after})
		wantHeard(t, heard, "later")
		if b.redis == nil {
			return
		}
		if err := redistest.Shared(t).Client(t).Del(t.Context(), wire.Format{Namespace: b.cfg.Namespace}.Key("booking")).Err(); err != nil {
			t.Fatal(err)
		}
		publish(t, b, Event{ID: "anew", Type: "booking.created"})
		gaps := make(chan Gap, 10)
		heard = hears(t, open(nil), Subscription{Patterns: []string{"booking.*"}, After: after, Gap: func(g Gap) { gaps <- g }})
		if g := within(t, "the gap", gaps); g.Missed != -1 || g.Reason != GapRecreated {
			t.Errorf("gap %+v", g)
		}
		wantHeard(t, heard, "anew")
	})
}

func TestCursorText(t *testing.T) {
	t.Parallel()
	b := openBus(t, Config{})
	encode := func(text string) Cursor { return Cursor(base64.RawURLEncoding.EncodeToString([]byte(text))) }
	for _, bad := range []Cursor{"!", "e", encode("{}"), encode(`{"t":1,"r":{"booking":"x"}}`), encode(`{"t":1,"r":{"booking":"1-1 -3"}}`), encode(`{"t":1,"r":{"booking":7}}`)} {
		var invalid *ValidationError
		_, err := b.Subscribe(t.Context(), Subscription{After: bad}, func(context.Context, Event) error { return nil })
		if !errors.As(err, &invalid) || invalid.Faults[0].Field != "after" {
			t.Errorf("cursor %q: %v", bad, err)
		}
	}
	_, err := b.Subscribe(t.Context(), Subscription{After: encode(`{"t":1}`), From: Oldest}, func(context.Context, Event) error { return nil })
	var invalid *ValidationError
	if !errors.As(err, &invalid) || !slices.ContainsFunc(invalid.Faults, func(f Fault) bool { return f.Field == "from" }) {
		t.Errorf("cursor and From: %v", err)
	}
	if got := CurrentCursor(t.Context()); got != "" {
		t.Errorf("outside of a subscription: %q", got)
	}
}
