package redisstream

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/redistest"
)

// waiting makes a group of the stream "booking" for whose consumer one event of each type waits.
func waiting(t *testing.T, payload string, types ...string) (*Client, redis.UniversalClient) {
	t.Helper()
	server := redistest.Start(t)
	c := connect(t, server, "acme")
	consumer := Consumer{Group: "g", Name: "c"}
	join := Join{Stream: "booking", Patterns: []string{"booking.**"}}
	if _, err := c.Join(t.Context(), consumer, join); err != nil {
		t.Fatal(err)
	}
	messages := numbered(len(types), payload)
	slices.Reverse(messages) // so that their order is not that of their names
	writer := Writer{Name: "w", Seq: 1}
	if _, _, err := c.Append(t.Context(), "booking", writer, messages); err != nil {
		t.Fatal(err)
	}
	read, err := c.Read(t.Context(), consumer, []string{"booking"}, len(types), MaxBlock)
	if err != nil || len(read) != len(types) {
		t.Fatalf("read %d, error %v", len(read), err)
	}
	waits := make([]Wait, len(types))
	for i, d := range read {
		waits[i] = Wait{Ref: d.Ref, Type: types[i], Message: messages[i]}
	}
	settled, err := c.LetWait(t.Context(), consumer, "booking", waits, 1)
	if err != nil || slices.ContainsFunc(settled, func(s Settled) bool { return s != Done }) {
		t.Fatalf("let wait: %v, error %v", settled, err)
	}
	return c, server.Client(t)
}

func TestG08WaitingTypes(t *testing.T) {
	t.Parallel()
	c, _ := waiting(t, "{}", "booking.b.x", "booking.a", "booking.a", "booking.b", "booking.b-x", "booking",
		"bookings.x", "booking.\xff")
	for _, test := range []struct {
		prefix, after string
		most          int
		want          string
	}{
		{"", "", 100, "booking booking.a booking.b booking.b-x booking.b.x booking.\xff bookings.x"},
		{"", "booking.b", 2, "booking.b-x booking.b.x"},
		{"booking.", "", 100, "booking.a booking.b booking.b-x booking.b.x booking.\xff"},
		{"booking.", "booking.b", 2, "booking.b-x booking.b.x"},
		{"booking.b.", "", 100, "booking.b.x"},
		{"booking.", "booking.\xff", 100, ""},
	} {
		got, err := c.WaitingTypes(t.Context(), "booking", "g", test.prefix, test.after, test.most)
		if text := strings.Join(got, " "); text != test.want || err != nil {
			t.Errorf("%d with %q behind %q: %q, error %v, want %q",
				test.most, test.prefix, test.after, text, err, test.want)
		}
	}
}

// A type is named by its oldest event, which the server reads whole: of large ones one step names a
// few.
func TestG08WaitingTypesOfLargeEvents(t *testing.T) {
	t.Parallel()
	var types, got []string
	for i := range 9 {
		types = append(types, fmt.Sprint("booking.", i))
	}
	c, _ := waiting(t, strings.Repeat("x", 1<<20), types...)
	steps, after := 0, ""
	for {
		named, err := c.WaitingTypes(t.Context(), "booking", "g", "", after, 100)
		if err != nil {
			t.Fatal(err)
		}
		if len(named) == 0 {
			break
		}
		got, after = append(got, named...), named[len(named)-1]
		steps++
	}
	if !slices.Equal(got, types) || steps != 3 {
		t.Errorf("%q in %d steps, want %q in 3", got, steps, types)
	}
}

// What is let wait in one step keeps its order; what has no room is left as it is, and nothing is
// done where the group takes something else by now.
func TestG08LetWait(t *testing.T) {
	t.Parallel()
	c, client := waiting(t, "{}", "booking.a", "booking.a", "booking.a")
	consumer := Consumer{Group: "g", Name: "c"}
	fetched, err := c.Fetch(t.Context(), consumer, "booking", []string{"booking.a"}, 10)
	if err != nil || len(fetched) != 3 {
		t.Fatalf("fetched %d, error %v, want 3", len(fetched), err)
	}
	waits := make([]Wait, len(fetched))
	for i, d := range fetched {
		m, _ := d.Entry.Message()
		if want := fmt.Sprint("e-", 2-i); m.UUID != want {
			t.Errorf("%s comes where %s is wanted", m.UUID, want)
		}
		waits[i] = Wait{Ref: d.Ref, Type: "booking.a", Message: m}
	}
	letWait := func(name string, waits []Wait, version int64, want ...Settled) {
		t.Helper()
		got, err := c.LetWait(t.Context(), consumer, "booking", waits, version)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, error %v, want %v", name, got, err, want)
		}
	}
	letWait("with other patterns", waits, 7, Changed, Changed, Changed)
	const fill = `for i = ARGV[1], ARGV[2] do redis.call('ZADD', KEYS[1], 0, 'x\0' .. i .. '\0') end`
	for n := 1; n < GroupBound; n += 5000 { // in steps that end long before a time-out
		last := min(n+4999, GroupBound-1)
		err := client.Eval(t.Context(), fill, []string{c.waitingKey("booking", "g")}, n, last).Err()
		if err != nil && err != redis.Nil {
			t.Fatal(err)
		}
	}
	letWait("with room for one", waits, 1, Done, Full, Full)
	// One whose answer was lost is settled, although there is no room.
	letWait("again", waits[:1], 1, Done)
	if n := client.XLen(t.Context(), c.laneKey("booking", "g")).Val(); n != 2 {
		t.Errorf("%d entries are in the lane, want the 2 that had no room", n)
	}
	beat, err := c.Beat(t.Context(), consumer, "booking", Say{})
	if err != nil || !beat.Full || beat.Waiting != GroupBound {
		t.Errorf("beat %+v, error %v, want it to be full", beat, err)
	}
	client.Del(t.Context(), "acme:booking", c.laneKey("booking", "g"))
	letWait("without a group", waits, 1, LeaseLost, LeaseLost, LeaseLost)
}

// A pattern is forgotten only where it is certain that no live consumer handles it, and something is left
// that the group takes.
func TestG08Forget(t *testing.T) {
	t.Parallel()
	c, client := waiting(t, "{}", "booking.a", "booking.a", "booking.b")
	whole := []string{"booking", "booking.**"}
	forget := func(name, pattern string, want ForgetResult, consumer string) {
		t.Helper()
		got, err := c.Forget(t.Context(), "booking", "g", Forget{Pattern: pattern, Default: whole})
		if err != nil || got.Result != want || got.Consumer != consumer {
			t.Errorf("%s: %+v, error %v, want %d and consumer %q", name, got, err, want, consumer)
		}
	}
	beat := func(name, about string) {
		t.Helper()
		if _, err := c.Beat(t.Context(), Consumer{Group: "g", Name: name}, "booking", Say{About: about}); err != nil {
			t.Fatal(err)
		}
	}
	forget("its consumer has just joined", "booking.**", NotSaidYet, "c")
	beat("c", `{"patterns":null}`)
	forget("its consumer takes all", "booking.**", StillHandled, "c")
	beat("c", `{"patterns":["booking.x","booking.**"]}`)
	forget("its consumer names it", "booking.**", StillHandled, "c")
	forget("it is no pattern of the group", "booking.*", NotTaken, "")
	beat("c", `{"patterns":["booking.x"]}`)
	forget("it is the only one", "booking.**", NothingElse, "")

	join := Join{Stream: "booking", Patterns: []string{"booking.a"}}
	if _, err := c.Join(t.Context(), Consumer{Group: "g", Name: "d"}, join); err != nil {
		t.Fatal(err)
	}
	beat("d", `{"patterns":["booking.**"]}`)
	// The beat of one that has died is long ago.
	client.ZAdd(t.Context(), c.aliveKey("booking", "g"), redis.Z{Member: "d", Score: 1})
	dry, err := c.Forget(t.Context(), "booking", "g", Forget{Pattern: "booking.**", Default: whole, DryRun: true})
	if err != nil || dry.Result != Forgot || dry.Patterns.Version != 2 {
		t.Errorf("dry run: %+v, error %v, want version 2", dry, err)
	}
	forget("its consumer has died", "booking.**", Forgot, "")
	if got := client.HGet(t.Context(), c.metaKey("booking"), "patterns:g").Val(); got != "booking.a" {
		t.Errorf("group takes %q, want booking.a", got)
	}
	if n, s, err := c.DropWaiting(t.Context(), "booking", "g", "booking.b", 2); n != 0 || s != Changed || err != nil {
		t.Errorf("with older patterns: %d dropped, %d, error %v", n, s, err)
	}
	if n, s, err := c.DropWaiting(t.Context(), "booking", "g", "booking.b", 3); n != 1 || s != Done || err != nil {
		t.Errorf("%d dropped, %d, error %v, want 1", n, s, err)
	}
	if n, err := c.CountWaiting(t.Context(), "booking", "g", []string{"booking.a", "booking.b"}); n != 2 || err != nil {
		t.Errorf("%d wait, error %v, want the 2 of the other type", n, err)
	}
}

// What is dropped counts by its type, as what is skipped; types beyond a bound count together.
func TestG08DropWaitingCountsTypes(t *testing.T) {
	t.Parallel()
	c, client := waiting(t, "{}", "booking.a", "booking.a", "booking.b")
	meta := c.metaKey("booking")
	client.HSet(t.Context(), meta, "types:g", UnhandledTypes-1)
	for _, eventType := range []string{"booking.a", "booking.b"} {
		if _, s, err := c.DropWaiting(t.Context(), "booking", "g", eventType, 1); s != Done || err != nil {
			t.Fatal(s, err)
		}
	}
	got := client.HMGet(t.Context(), meta, "unhandled:g:booking.a", "unhandled:g:*", "types:g").Val()
	if want := []any{"2", "1", fmt.Sprint(UnhandledTypes)}; !slices.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
}
