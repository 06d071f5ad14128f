package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/redistest"
)

// deadLetters returns all dead letters of a group.
func deadLetters(t *testing.T, b *Bus, stream, group string) []DeadLetter {
	t.Helper()
	var all []DeadLetter
	for d, err := range b.DeadLetters(t.Context(), DeadQuery{Stream: stream, Group: group}) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, d)
	}
	return all
}

// buried is a bus on Redis with a group that has dead letters of a size, and the positions of these.
func buried(t *testing.T, n, size int) (*Bus, []Position) {
	t.Helper()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	b := openBus(t, Config{Redis: server.Options(), Namespace: namespace})
	_ = consume(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}}, "booking", newTally().ack).Close()
	at := make([]Position, n)
	_, err := server.Client(t).Pipelined(t.Context(), func(p redis.Pipeliner) error {
		for i := range at {
			e := Event{ID: fmt.Sprint("e-", i), Type: "booking.created", Data: []byte(`"` + strings.Repeat("x", size) + `"`)}
			at[i] = Position(fmt.Sprint("1000-", i+1))
			args := []any{"XADD", "{" + namespace + ":booking}:dead:g", string(at[i])}
			for _, f := range encode(&e).Entry(redisstream.ID{}).Fields() {
				args = append(args, f)
			}
			p.Do(t.Context(), append(args, redisstream.FieldDead, fmt.Sprintf(`{"originalPosition":"5-%d"}`, i+1))...)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b, at
}

// requeues is a transport that notes what is asked of dead letters, and may fail.
type requeues struct {
	transport
	trips     int
	mostAsked int // IDs at once
	mostBytes int // of the letters that came at once
	odd       string
	err       error
}

func (r *requeues) DeadAt(ctx context.Context, stream, group string, ids []redisstream.ID, bytes int) ([]redisstream.Entry, int, error) {
	letters, looked, err := r.transport.DeadAt(ctx, stream, group, ids, bytes)
	r.trips++
	r.mostAsked = max(r.mostAsked, len(ids))
	size := 0
	for _, letter := range letters {
		size += letter.Size()
	}
	r.mostBytes = max(r.mostBytes, size)
	return letters, looked, err
}

func (r *requeues) Requeue(ctx context.Context, stream, group string, copies []redisstream.Copy) ([]redisstream.Settled, error) {
	r.trips++
	for i, one := range copies {
		if one.Message.UUID == r.odd {
			settled, err := r.transport.Requeue(ctx, stream, group, slices.Delete(slices.Clone(copies), i, i+1))
			return slices.Insert(settled, i, redisstream.Unknown), errors.Join(r.err, err)
		}
	}
	return r.transport.Requeue(ctx, stream, group, copies)
}

// Many dead letters are given back with a few round trips, and large ones a few at a time.
func TestG19RequeueTakesAFewRoundTrips(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ letters, size, trips int }{
		"many":  {450, 10, 6},
		"large": {9, 1 << 20, 6}, // three of somewhat more than 1 MiB at a time
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, at := buried(t, test.letters, test.size)
			r := &requeues{transport: b.log}
			b.log = r
			n, err := b.Requeue(t.Context(), "booking", "g", at...)
			if n != test.letters || err != nil {
				t.Errorf("%d are requeued, error %v, want %d", n, err, test.letters)
			}
			if r.trips != test.trips || r.mostAsked > 200 || r.mostBytes > 4<<20 {
				t.Errorf("%d round trips of at most %d letters, %d bytes; want %d", r.trips, r.mostAsked, r.mostBytes, test.trips)
			}
			handled := newTally()
			handle(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}}, "booking", func(_ context.Context, d *Delivery) error {
				if d.Origin != OriginRequeue || d.Attempt != 1 || d.Event.ID == "e-0" && d.Position != "5-1" {
					t.Errorf("delivery %+v", d)
				}
				handled.add(d.Event.ID)
				return nil
			})
			handled.await(t, test.letters)
			if dead := deadLetters(t, b, "booking", "g"); len(dead) > 0 {
				t.Errorf("%d are dead letters still", len(dead))
			}
		})
	}
}

// A dead letter that can't be given back keeps back no other, unless the reason is that of all of them.
func TestG19RequeueLosesNoOther(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err  error
		want int
	}{
		"its own reason": {redisError("ERR odd"), 449},
		"out of memory":  {redisError("OOM no memory"), 199},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, at := buried(t, 450, 10)
			b.log = &requeues{transport: b.log, odd: "e-3", err: test.err}
			asked := slices.Concat([]Position{"odd"}, at[:200], []Position{"1-1"}, at[200:]) // one is no position, and one is gone
			n, err := b.Requeue(t.Context(), "booking", "g", asked...)
			if n != test.want || err == nil || !strings.Contains(err.Error(), `position "odd"`) || !errors.Is(err, test.err) {
				t.Errorf("%d are requeued, error %v; want %d, and both errors", n, err, test.want)
			}
			if dead := deadLetters(t, b, "booking", "g"); len(dead) != 450-test.want || dead[0].Event.ID != "e-3" {
				t.Errorf("%d are dead letters still, want %d", len(dead), 450-test.want)
			}
		})
	}
}

// What does not fit into the lane stays a dead letter, and the error says so.
func TestG19RequeueIntoAFullLane(t *testing.T) {
	t.Parallel()
	b := openBus(t, Config{})
	g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}, Policy: Policy{Attempts: 1}}
	handle(t, b, g, "booking", func(context.Context, *Delivery) error { return errors.New("no") })
	publish(t, b, events(5, "booking.created")...)
	awaitDead(t, b, "booking", "g", 5)
	onlyConsumer(t, b).Close()
	var at []Position
	for _, letter := range deadLetters(t, b, "booking", "g") {
		at = append(at, letter.Position)
	}
	b.local.Bound(2)
	n, err := b.Requeue(t.Context(), "booking", "g", at...)
	if n != 2 || !errors.Is(err, ErrBackPressure) {
		t.Errorf("%d are requeued, error %v, want 2 and %v", n, err, ErrBackPressure)
	}
	if left := deadLetters(t, b, "booking", "g"); len(left) != 3 || left[0].Position != at[2] {
		t.Errorf("%d are dead letters still, want the last 3", len(left))
	}
}

// redisError is an error that the server replies.
type redisError string

func (e redisError) Error() string { return string(e) }
func (redisError) RedisError()     {}
