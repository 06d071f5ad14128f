package pipeline

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// A webhook, a deploy or a database that is down for two hours makes no dead letters: the attempts
// of a group with the defaults end about 2.5 hours after the first, in virtual time.
func TestG10DefaultsOutlastTwoHours(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := openBus(t, Config{})
		var begun []time.Time
		g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}}
		handle(t, b, g, AllStreams, func(context.Context, *Delivery) error {
			begun = append(begun, time.Now())
			return errors.New("no")
		})
		publish(t, b, Event{Type: "booking.created"})
		time.Sleep(4 * time.Hour) // of the bubble's time
		synctest.Wait()
		if len(begun) != 20 {
			t.Fatalf("got %d attempts, want 20", len(begun))
		}
		// 2 h 32 min on average; each wait is off by 20 % at most.
		if took := begun[19].Sub(begun[0]); took < 2*time.Hour || took > 3*time.Hour+3*time.Minute {
			t.Errorf("the attempts took %v, want about 2.5 h", took)
		}
		if d := onlyDead(t, b, "booking", "g"); d.Attempts != 20 || d.Kind != KindError {
			t.Errorf("dead letter %+v", d)
		}
	})
}

// What docs/operations.md says that the defaults sum up to.
func TestG10SumOfTheDefaultBackoff(t *testing.T) {
	t.Parallel()
	const rounds = 200
	var sum time.Duration
	for range rounds {
		for failures := 1; failures < (GroupConfig{}).withDefaults().Policy.Attempts; failures++ {
			sum += DefaultBackoff(failures)
		}
	}
	const want = 2*time.Hour + 32*time.Minute + 3*time.Second
	if got := sum / rounds; (got - want).Abs() > 5*time.Minute {
		t.Errorf("the waits sum up to %v, want about %v", got, want)
	}
}

// manyReasons returns a failure of another reason each time: nothing that pauses a group.
func manyReasons() func() error {
	var n atomic.Int32
	return func() error { return fmt.Errorf("no %s", strings.Repeat("x", 1+int(n.Add(1))%20)) }
}

// deferAll publishes n events to a group all of whose first attempts fail, and waits until they are
// deferred for an hour. What becomes of later attempts says the function.
func deferAll(t *testing.T, b *Bus, n int, again func(d *Delivery) error) {
	t.Helper()
	fail, hour := manyReasons(), func(int) time.Duration { return time.Hour }
	g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}, InFlight: 64, Policy: Policy{Backoff: hour}}
	handle(t, b, g, AllStreams, func(_ context.Context, d *Delivery) error {
		if d.Attempt == 1 {
			return fail()
		}
		return again(d)
	})
	publish(t, b, events(n, "booking.created")...)
	awaitDeferred(t, b, n)
}

func awaitDeferred(t *testing.T, b *Bus, n int) {
	t.Helper()
	awaitGroup(t, b, "booking", "g", func(g redisstream.GroupInfo) bool {
		return g.Deferred == int64(n) && g.Pending == 0 && g.Lane == 0 && g.Lag == 0
	})
}

// wantDeferred holds what the bus says to be deferred.
func wantDeferred(t *testing.T, b *Bus, want int) {
	t.Helper()
	if got, err := b.Deferred(t.Context(), "booking", "g"); got != want || err != nil {
		t.Errorf("got %d deferred, error %v, want %d", got, err, want)
	}
}

// attempts counts which attempts at which events were made.
type attempts struct {
	mu   sync.Mutex
	made map[string]int // by event and attempt
}

func (a *attempts) add(d *Delivery) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.made == nil {
		a.made = map[string]int{}
	}
	a.made[fmt.Sprint(d.Event.ID, "/", d.Attempt)]++
}

// check wants each of so many attempts to have been made once.
func (a *attempts) check(t *testing.T, want int) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.made) != want {
		t.Errorf("got %d different attempts, want %d", len(a.made), want)
	}
	for attempt, n := range a.made {
		if n != 1 {
			t.Errorf("attempt %s was made %d times", attempt, n)
		}
	}
}

// What waits for its next attempt comes at once, each once, as the attempt that it would have been;
// and it is found by whoever waits for it, without a beat.
func TestG10RetryNow(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		const n = 450 // more than two steps in Redis
		b := open(nil)
		second := attempts{}
		deferAll(t, b, n, func(d *Delivery) error {
			if d.Attempt != 2 || d.Origin != OriginRetry {
				t.Errorf("got attempt %d of origin %q, want 2 of a retry", d.Attempt, d.Origin)
			}
			second.add(d)
			return nil
		})
		wantDeferred(t, b, n)
		if moved, err := b.RetryNow(t.Context(), "booking", "g"); moved != n || err != nil {
			t.Errorf("moved %d, error %v, want %d", moved, err, n)
		}
		awaitDeferred(t, b, 0)
		second.check(t, n)
		wantDeferred(t, b, 0)
		if moved, err := b.RetryNow(t.Context(), "booking", "g"); moved != 0 || err != nil {
			t.Errorf("with nothing deferred: moved %d, error %v", moved, err)
		}
	})
}

// What fails again while it works is not moved a second time, or it might never end.
func TestG10RetryNowMovesNothingTwice(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		const n = 450
		b := open(nil)
		later, fail := attempts{}, manyReasons()
		deferAll(t, b, n, func(d *Delivery) error { later.add(d); return fail() })
		if moved, err := b.RetryNow(t.Context(), "booking", "g"); moved != n || err != nil {
			t.Errorf("moved %d, error %v, want %d", moved, err, n)
		}
		awaitDeferred(t, b, n)
		later.check(t, n)
	})
}

// Several who retry, and the beats that move what is due, lose and double nothing.
func TestG10RetryNowBesideBeatsAndOthers(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		const n, tries = 300, 4
		b := open(nil)
		all, fail := attempts{}, manyReasons()
		backoff := func(failures int) time.Duration { return time.Duration(failures) * 10 * time.Millisecond }
		g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}, Policy: Policy{Backoff: backoff}}
		handle(t, b, g, AllStreams, func(_ context.Context, d *Delivery) error {
			all.add(d)
			if d.Attempt < tries {
				return fail()
			}
			return nil
		})
		publish(t, b, events(n, "booking.created")...)
		done := make(chan struct{})
		var others sync.WaitGroup
		for range 3 {
			others.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
					}
					if _, err := b.RetryNow(t.Context(), "booking", "g"); err != nil {
						t.Errorf("retry: %v", err)
						return
					}
				}
			})
		}
		awaitFact(t, "all attempts", func() bool {
			all.mu.Lock()
			defer all.mu.Unlock()
			return len(all.made) == n*tries
		})
		awaitDeferred(t, b, 0)
		close(done)
		others.Wait()
		all.check(t, n*tries)
	})
}

// In memory nothing passes between the call and the attempt, not even a beat.
func TestG10RetryNowIsHeardAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := openBus(t, Config{})
		begun := make(chan time.Time, 1)
		deferAll(t, b, 1, func(*Delivery) error { begun <- time.Now(); return nil })
		called := time.Now()
		if moved, err := b.RetryNow(t.Context(), "booking", "g"); moved != 1 || err != nil {
			t.Fatalf("moved %d, error %v, want 1", moved, err)
		}
		if took := (<-begun).Sub(called); took != 0 {
			t.Errorf("the attempt came %v later", took)
		}
	})
}

// A lane that is full takes no more, and what did not fit comes when it is due.
func TestG10RetryNowHeedsTheBoundOfTheLane(t *testing.T) {
	t.Parallel()
	b := openBus(t, Config{})
	release := make(chan struct{})
	deferAll(t, b, 10, func(*Delivery) error { <-release; return nil })
	b.local.Bound(4)
	moved, err := b.RetryNow(t.Context(), "booking", "g")
	if moved != 4 || !errors.Is(err, ErrBackPressure) || !strings.Contains(err.Error(), "worked off") {
		t.Errorf("moved %d, error %v, want 4, ErrBackPressure and a way out", moved, err)
	}
	wantDeferred(t, b, 6)
	close(release)
	awaitDeferred(t, b, 6)
}

func TestG10RetryNowOfAnUnknownGroup(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		publish(t, b, Event{Type: "booking.created"})
		for _, name := range [][2]string{{"booking", "nobody"}, {"nowhere", "g"}} {
			if _, err := b.RetryNow(t.Context(), name[0], name[1]); !errors.Is(err, ErrUnknownGroup) {
				t.Errorf("%v: got %v, want ErrUnknownGroup", name, err)
			}
			if _, err := b.Deferred(t.Context(), name[0], name[1]); !errors.Is(err, ErrUnknownGroup) {
				t.Errorf("%v: got %v, want ErrUnknownGroup", name, err)
			}
		}
		if _, err := b.RetryNow(t.Context(), "Boo king", "g"); err == nil {
			t.Error("a stream that can't be: got no error")
		}
	})
}

// putOffs runs a group in virtual time whose handler asks for the given time until enough is true,
// and returns when each try began.
func putOffs(t *testing.T, after time.Duration, enough func(begun []time.Time) bool) (begun []time.Time) {
	t.Helper()
	b := openBus(t, Config{})
	done := make(chan struct{})
	g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}, Policy: Policy{Attempts: 1}}
	handle(t, b, g, AllStreams, func(_ context.Context, d *Delivery) error {
		begun = append(begun, time.Now())
		if d.Attempt != 1 {
			t.Errorf("got attempt %d: a put-off costs none", d.Attempt)
		}
		if enough(begun) {
			close(done)
			return nil
		}
		return &RetryAfterError{Err: errors.New("not yet"), After: after}
	})
	publish(t, b, Event{Type: "booking.created"})
	<-done
	return begun
}

// Exit 101 without a time, a Retry-After of 0 or in the past: the wait grows with each time, as it
// does with failures. It was a second for ever.
func TestG19RetryAfterWithoutATimeBacksOff(t *testing.T) {
	t.Parallel()
	for _, after := range []time.Duration{0, -time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			begun := putOffs(t, after, func(begun []time.Time) bool { return len(begun) == 14 })
			for i := 1; i < len(begun); i++ {
				want := min(time.Second<<(i-1), 15*time.Minute)
				// What is due is moved by the next beat, and that comes when it is due.
				got := begun[i].Sub(begun[i-1])
				if got < want*8/10 || got > want*12/10+10*time.Millisecond {
					t.Errorf("after %v, wait %d: got %v, want %v ± 20 %%", after, i, got, want)
				}
			}
		})
	}
}

// A time that is named is obeyed as it is, whatever came before.
func TestG19RetryAfterWithATimeDoesNotGrow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begun := putOffs(t, 20*time.Second, func(begun []time.Time) bool { return len(begun) == 10 })
		for i := 1; i < len(begun); i++ {
			if got := begun[i].Sub(begun[i-1]); got < 20*time.Second || got > 20*time.Second+10*time.Millisecond {
				t.Errorf("wait %d: got %v, want 20 s", i, got)
			}
		}
	})
}

// What is never ready takes some hundred tries in the day after which that is a failure, not
// 86,400.
func TestG19RetryAfterWithoutATimeEndsAfterADay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := openBus(t, Config{})
		tries := 0
		g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}, Policy: Policy{Attempts: 1}}
		handle(t, b, g, AllStreams, func(context.Context, *Delivery) error {
			tries++
			return &RetryAfterError{Err: errors.New("not yet")}
		})
		publish(t, b, Event{Type: "booking.created"})
		time.Sleep(25 * time.Hour) // of the bubble's time
		synctest.Wait()
		if tries < 50 || tries > 150 {
			t.Errorf("got %d tries, want about 105", tries)
		}
		if d := onlyDead(t, b, "booking", "g"); d.Attempts != 1 {
			t.Errorf("dead letter %+v, want one attempt", d)
		}
	})
}

// The number of put-offs goes with the delivery, from instance to instance, and past one that
// failed.
func TestG19RetryAfterIsCountedInTheCopy(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		var mu sync.Mutex
		var asked []int // of Backoff
		backoff := func(failures int) time.Duration {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, failures)
			return time.Millisecond
		}
		results := []error{&RetryAfterError{}, &RetryAfterError{}, errors.New("no"), &RetryAfterError{}}
		for i := range results {
			if later, ok := results[i].(*RetryAfterError); ok {
				later.Err = errors.New("not yet")
			}
		}
		// Each instance takes one try and leaves.
		g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}, Policy: Policy{Backoff: backoff}}
		publish(t, b, Event{Type: "booking.created"})
		for _, result := range append(results, nil) {
			tried := make(chan struct{})
			sub := handle(t, b, g, AllStreams, func(context.Context, *Delivery) error {
				close(tried)
				return result
			})
			within(t, "a try", tried)
			if err := sub.Close(); err != nil {
				t.Fatal(err)
			}
		}
		// A put-off counts besides the failures, a failure by itself.
		if diff := cmp.Diff([]int{1, 2, 1, 4}, asked); diff != "" {
			t.Errorf("back-off was asked for (-want +got):\n%s", diff)
		}
	})
}
