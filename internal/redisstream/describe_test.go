package redisstream

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/redistest"
)

// trips counts the round trips of a client, and calls a function after each.
type trips struct {
	count atomic.Int64
	after func(n int64)
}

func (h *trips) made() {
	if n := h.count.Add(1); h.after != nil {
		h.after(n)
	}
}

func (h *trips) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h *trips) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		defer h.made()
		return next(ctx, cmd)
	}
}

func (h *trips) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		defer h.made()
		return next(ctx, cmds)
	}
}

// makeGroups makes streams of one entry with groups that have not read it, and returns their names.
func makeGroups(
	t *testing.T, c *Client, client redis.UniversalClient, streams, groups int,
) []string {
	t.Helper()
	names := make([]string, streams)
	_, err := client.Pipelined(t.Context(), func(p redis.Pipeliner) error {
		for i := range names {
			names[i] = fmt.Sprintf("stream%03d", i)
			p.Do(t.Context(), "XADD", c.streamKey(names[i]), "5-5", "a", "1")
			for j := range groups {
				p.XGroupCreate(t.Context(), c.streamKey(names[i]), fmt.Sprint("g", j), "0")
				p.HSet(t.Context(), c.metaKey(names[i]), fmt.Sprint("patterns:g", j), "booking.*")
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestG19ManyGroupsTakeAFewRoundTrips(t *testing.T) {
	t.Parallel()
	const streams, groups = 50, 20
	server := redistest.Start(t)
	c := connect(t, server, "ns")
	names := makeGroups(t, c, server.Client(t), streams, groups)
	client := server.Client(t)
	waits := redis.Z{Member: "booking.made\x001764000000000000\x00m"}
	client.ZAdd(t.Context(), c.waitingKey(names[7], "g3"), waits)
	made := &trips{}
	c.admin.AddHook(made)
	described := c.Describe(t.Context(), append([]string{"missing"}, names...))
	if n := made.count.Load(); n > 20 {
		t.Errorf("%d round trips for %d streams of %d groups", n, streams, groups)
	}
	missing := described[0]
	if missing.Err != nil || missing.Info.Exists || len(missing.Groups) > 0 {
		t.Errorf("a stream that is not there: %+v", missing)
	}
	for i, d := range described[1:] {
		id := ID{5, 5}
		info := StreamInfo{Exists: true, Length: 1, First: id, Last: id, EntriesAdded: 1}
		if d.Err != nil || d.Stream != names[i] || d.Info != info {
			t.Fatalf("stream %s: %+v", names[i], d)
		}
		if len(d.Groups) != groups {
			t.Fatalf("stream %s: %d groups, want %d", names[i], len(d.Groups), groups)
		}
		for _, g := range d.Groups {
			waiting := 0
			if i == 7 && g.Name == "g3" {
				waiting = 1
			}
			found := len(g.Waiting) == waiting && g.Deferred == int64(waiting)
			if g.Lag != 1 || len(g.Patterns) != 1 || !found {
				t.Errorf("stream %s: group %+v", names[i], g)
			}
		}
	}
}

// When the time is up, what is known is told, and each stream of which something is missing says
// so. One that can't be described at all hides no other.
func TestG19PartOfTheAnswersIsTold(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c := connect(t, server, "")
	names := makeGroups(t, c, server.Client(t), 3*streamsPerTrip, 2)
	server.Client(t).Set(t.Context(), names[3], "a key of another type", 0)
	c.Describe(t.Context(), names[:1]) // the server knows the script
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c.admin.AddHook(&trips{after: func(n int64) {
		if n == 3 { // streams and groups, streams
			cancel()
		}
	}})
	known, half, unknown := 0, 0, 0
	for i, d := range c.Describe(ctx, names) {
		switch {
		case i == 3:
			if Classify(d.Err) != Denied {
				t.Errorf("stream %s: %v, want it refused", d.Stream, d.Err)
			}
		case d.Err == nil && len(d.Groups) == 2:
			known++
		case errors.Is(d.Err, context.Canceled) && d.Info.Exists:
			half++
		case errors.Is(d.Err, context.Canceled):
			unknown++
		default:
			t.Errorf("stream %s: %d groups and no error", d.Stream, len(d.Groups))
		}
	}
	if known != streamsPerTrip-1 || half != streamsPerTrip || unknown != streamsPerTrip {
		t.Errorf("%d known, %d half, %d unknown", known, half, unknown)
	}
}
