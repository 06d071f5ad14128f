package pipeline

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// ack handles any delivery.
func ack(m *message.Message, _ *Delivery) { m.Ack() }

// wantForgettable holds what the bus says to be forgettable, or the error that it has instead.
func wantForgettable(t *testing.T, b *Bus, pattern string, want int, wantErr error, says string) {
	t.Helper()
	n, err := b.Forgettable(t.Context(), "booking", "g", pattern)
	if n != want || !errors.Is(err, wantErr) || err != nil && !strings.Contains(err.Error(), says) {
		t.Errorf("%s: %d would be acknowledged, error %v; want %d, error %v that says %q",
			pattern, n, err, want, wantErr, says)
	}
}

// A type that is forgotten does not wait any more: what waits is acknowledged and counted, and so
// is what comes. What another pattern of the group matches is left as it is.
func TestG08ForgetType(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		joinAndLeave(t, b, "booking.old", "booking.kept", "booking.*.x", "booking.a.x")
		consume(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.created"}}, AllStreams, ack)
		const n = 520 // more than two steps in Redis
		publish(t, b, events(n/2, "booking.old")...)
		publish(t, b, events(n/2, "booking.old")...)
		publish(t, b, Event{Type: "booking.kept"}, Event{Type: "booking.a.x"}, Event{Type: "booking.b.x"})
		settled := func(waiting int64) func(redisstream.GroupInfo) bool {
			return func(g redisstream.GroupInfo) bool {
				return g.Deferred == waiting && g.Pending == 0 && g.Lag == 0 && g.Members[0].About != ""
			}
		}
		awaitGroup(t, b, "booking", "g", settled(n+3))

		wantForgettable(t, b, "booking.old", n, nil, "")
		wantForgettable(t, b, "booking.a.x", 0, nil, "")
		wantForgettable(t, b, "booking.*.x", 1, nil, "")
		wantForgettable(t, b, "booking.never", 0, ErrUnknownPattern, "booking.old, booking.kept")
		wantForgettable(t, b, "booking.created", 0, ErrPatternNeeded, b.instance)
		if _, err := b.Forgettable(t.Context(), "booking", "g", "booking."); err == nil {
			t.Error("a pattern that is none has no error")
		}
		if _, err := b.ForgetType(t.Context(), "booking", "g", "booking.created"); !errors.Is(err, ErrPatternNeeded) {
			t.Errorf("a pattern that is handled: error %v, want %v", err, ErrPatternNeeded)
		}
		if _, err := b.ForgetType(t.Context(), "booking", "nobody", "booking.old"); !errors.Is(err, ErrUnknownGroup) {
			t.Errorf("an unknown group: error %v, want %v", err, ErrUnknownGroup)
		}

		if got, err := b.ForgetType(t.Context(), "booking", "g", "booking.old"); got != n || err != nil {
			t.Errorf("%d were acknowledged, error %v, want %d", got, err, n)
		}
		publish(t, b, Event{Type: "booking.old"})
		awaitGroup(t, b, "booking", "g", settled(3))
		for _, pattern := range []string{"booking.a.x", "booking.*.x"} {
			if got, err := b.ForgetType(t.Context(), "booking", "g", pattern); err != nil || pattern == "booking.*.x" && got != 2 {
				t.Errorf("%s: %d were acknowledged, error %v", pattern, got, err)
			}
		}
		awaitGroup(t, b, "booking", "g", settled(1))
		r, err := b.Group(t.Context(), "booking", "g")
		if err != nil || !slices.Equal(r.Patterns, []string{"booking.kept", "booking.created"}) {
			t.Errorf("group takes %v, error %v, want what is left", r.Patterns, err)
		}
		want := []UnhandledRow{{"booking.a.x", 1}, {"booking.b.x", 1}, {"booking.old", n + 1}}
		if !slices.Equal(r.Unhandled, want) {
			t.Errorf("not taken %v, want %v", r.Unhandled, want)
		}
		if _, err := b.ForgetType(t.Context(), "booking", "g", "booking.old"); !errors.Is(err, ErrUnknownPattern) {
			t.Errorf("again: error %v, want %v", err, ErrUnknownPattern)
		}
	})
}

// Where the waiting set was full, and a consumer holds as much as it may of a type that nobody
// handles, it lets go of that when the type is forgotten.
func TestG08ForgetTypeFreesAStreamThatIsNotRead(t *testing.T) {
	t.Parallel()
	b := openBus(t, Config{})
	joinAndLeave(t, b, "booking.old")
	noMoreMayWait(t, b)
	const n = othersLeast + 500
	for range n / 500 {
		publish(t, b, events(500, "booking.old")...)
	}
	publish(t, b, Event{ID: "wanted", Type: "booking.created"})
	handled := newTally()
	g := GroupConfig{Group: "g", Patterns: []string{"booking.created"}, InFlight: 16}
	consume(t, b, g, AllStreams, handled.ack)
	awaitGroup(t, b, "booking", "g", func(g redisstream.GroupInfo) bool { return g.Pending > othersLeast })
	// What waits is of another type, which nothing matches: it goes as well.
	if got, err := b.ForgetType(t.Context(), "booking", "g", "booking.old"); got != 1 || err != nil {
		t.Errorf("%d were acknowledged, error %v, want 1", got, err)
	}
	handled.await(t, 1)
	awaitGroup(t, b, "booking", "g", func(g redisstream.GroupInfo) bool {
		return g.Pending == 0 && g.Lag == 0 && g.Unhandled["booking.old"] == n
	})
}

// The problem names the way out: the command where no live consumer handles the type, and which
// patterns have to go.
func TestG08TypeWaitsNamesTheWayOut(t *testing.T) {
	t.Parallel()
	member := func(name string, alive bool, patterns string) redisstream.Member {
		return redisstream.Member{Name: name, Alive: alive, About: fmt.Sprintf(`{"patterns":[%s]}`, patterns)}
	}
	const forget = "millrace group forget-type booking g "
	for _, test := range []struct {
		name, hint string
		members    []redisstream.Member
		patterns   []string
	}{
		{"nobody is there", forget + "'booking.old'", nil, []string{"booking.old", "booking.created"}},
		{"others are there", forget + "'booking.old'; " + forget + "'booking.*'",
			[]redisstream.Member{member("a", true, `"booking.created"`)}, []string{"booking.old", "booking.*"}},
		{"its consumer has died", forget + "'booking.old'",
			[]redisstream.Member{member("a", false, `"booking.old"`)}, []string{"booking.old"}},
		{"it is forgotten", forget + "'booking.old'", nil, []string{"booking.created"}},
		{"its consumer lives", "consumer b handles them and does not keep up",
			[]redisstream.Member{member("a", true, `"booking.x"`), member("b", true, `"booking.*"`)}, []string{"booking.old", "booking.*"}},
		{"one that handles all lives", "consumer c handles them",
			[]redisstream.Member{{Name: "c", Alive: true, About: `{"patterns":null}`}}, []string{"booking.old"}},
	} {
		h := Health{}
		h.groupProblems("booking", redisstream.GroupInfo{
			Name: "g", Members: test.members, Patterns: test.patterns,
			Waiting: map[string]time.Time{"booking.old": time.Now().Add(-2 * time.Minute)},
		})
		if p := h.Problems[0]; p.Code != "type-waits" || !strings.Contains(p.Hint, test.hint) ||
			strings.Contains(p.Hint, "forget-type") != strings.Contains(test.hint, "forget-type") {
			t.Errorf("%s: %+v, want a hint that says %q", test.name, p, test.hint)
		}
	}
}

// What a consumer holds and could not pass on is looked at again when the group takes something
// else, and not at the end of the back-off, which is half a minute by then.
func TestG08PatternsAreHeardAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := openBus(t, Config{})
		joinAndLeave(t, b, "booking.old")
		noMoreMayWait(t, b)
		publish(t, b, events(10, "booking.old")...)
		g := GroupConfig{Group: "g", Patterns: []string{"booking.created"}, InFlight: 4}
		consume(t, b, g, AllStreams, ack)
		time.Sleep(time.Minute) // of the bubble's time
		b.local.Bound(0)        // so that there is no room when what waits has gone
		if got, err := b.ForgetType(t.Context(), "booking", "g", "booking.old"); got != 1 || err != nil {
			t.Errorf("%d were acknowledged, error %v, want 1", got, err)
		}
		time.Sleep(2 * beatEvery)
		synctest.Wait()
		groups, err := b.log.Groups(t.Context(), "booking")
		if err != nil || groups[0].Pending != 0 || groups[0].Unhandled["booking.old"] != 10 {
			t.Errorf("%+v, error %v, want all to be acknowledged", groups[0], err)
		}
	})
}
