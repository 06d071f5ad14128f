package group

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/wire"
)

// The answer of the log to "what is pending with me?" is older than what was settled while it was on its way.
func TestWhatIsSettledWhileItIsListedIsNotRunAgain(t *testing.T) {
	t.Parallel()
	entry := func(ms uint64) redisstream.Delivered {
		return redisstream.Delivered{Ref: redisstream.Ref{Stream: "booking", ID: redisstream.ID{MS: ms}}}
	}
	running, settled, unknown, taken := entry(1), entry(2), entry(3), entry(4)
	var w holdings
	w.init(10, false, nobody{}.New)
	w.hold(nil, []redisstream.Delivered{running, settled, taken})

	listed, fresh, err := w.holdListed(nil, func() ([]redisstream.Delivered, error) {
		pending := []redisstream.Delivered{running, settled, unknown, taken}
		w.settled(w.held[settled.Ref])
		w.lose(taken.Ref) // a renewal finds it gone, which was our own acknowledgement
		return pending, nil
	})
	if err != nil || listed != 4 || len(fresh) != 1 || fresh[0].ref != unknown.Ref {
		t.Errorf("listed %d, fresh %v, error %v; want 4 and only what was unknown", listed, fresh, err)
	}
	if room := w.room(); room != 8 {
		t.Errorf("room %d, want 8: what runs and what was unknown are held", room)
	}
	// A later listing that still has it says that the settlement was undone: the entry is pending again.
	if _, fresh, _ := w.holdListed(nil, func() ([]redisstream.Delivered, error) { return []redisstream.Delivered{settled}, nil }); len(fresh) != 1 {
		t.Errorf("%d fresh entries, want the one that is pending again", len(fresh))
	}
}

// A delivery that processes have died of is lost while its handler runs: the next one of them has its turn at once. It waits neither for that
// handler, which may be deaf, nor for the entry, which may come back behind it.
func TestF14ResultOfALostDeliveryIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	var w holdings
	w.init(10, false, nobody{}.New)
	of := &membership{stream: "booking"}
	of.fresh.Store(math.MaxInt64)
	now := time.Now()
	arrive := func(ms ...uint64) (hs []*Holding) {
		for _, ms := range ms {
			ref := redisstream.Ref{Stream: "booking", ID: redisstream.ID{MS: ms}}
			fresh := w.hold(nil, []redisstream.Delivered{{Ref: ref}})
			for _, h := range fresh {
				h.of, h.suspect, h.raised, h.Crashes = of, true, true, 1
			}
			hs = append(hs, fresh...)
		}
		w.enqueue(hs, now)
		return hs
	}
	wantNext := func(when string, want ...*Holding) {
		t.Helper()
		if got, _, _ := w.next(now); !slices.Equal(got, want) {
			t.Fatalf("%s: %d are handed out, want %d", when, len(got), len(want))
		}
		for _, h := range want {
			if !w.begin(h, now) {
				t.Fatalf("%s: its handler may not begin", when)
			}
		}
	}

	hs := arrive(1, 2)
	wantNext("both wait", hs[0])
	wantNext("the first one runs")
	if running := w.lose(hs[0].ref); running != hs[0] {
		t.Fatalf("%v runs", running)
	}
	wantNext("the first one was lost", hs[1])
	back := arrive(1)
	wantNext("it has come back")
	w.finish(hs[0], heldEnded, 0)
	wantNext("the handler of the lost one has ended")
	w.finish(hs[1], heldEnded, 0)
	wantNext("the result of the second one is on its way")
	w.settled(hs[1])
	wantNext("the result is in the log", back...)
}

// What was taken over has its places ahead of what was read before it, whether that was looked at already or not.
func TestG01WhatWasTakenOverGoesAhead(t *testing.T) {
	t.Parallel()
	var w holdings
	w.init(1, false, nobody{}.New)
	of := &membership{stream: "booking"}
	of.fresh.Store(math.MaxInt64)
	now := time.Now()
	arrive := func(taken bool, ms ...uint64) {
		var read []redisstream.Delivered
		for _, ms := range ms {
			read = append(read, redisstream.Delivered{Ref: redisstream.Ref{Stream: "booking", ID: redisstream.ID{MS: ms}}})
		}
		w.arrive(w.hold(nil, read), taken)
	}
	look := func() bool { // at one batch, as deliverLoop does
		hs := w.nextArrival()
		for _, h := range hs {
			h.of = of
		}
		w.enqueue(hs, now)
		return len(hs) > 0
	}
	arrive(false, 1, 2)
	look()
	arrive(false, 3)
	arrive(true, 4, 5)
	arrive(true, 6)
	var order []uint64
	for {
		out, _, _ := w.next(now)
		for _, h := range out {
			order = append(order, h.ref.ID.MS)
			w.begin(h, now)
			w.finish(h, heldEnded, 0)
		}
		if !look() && len(out) == 0 {
			break
		}
	}
	// The first one has the place before anything is taken over.
	if want := []uint64{1, 4, 5, 6, 2, 3}; !slices.Equal(order, want) {
		t.Errorf("the order is %v, want %v", order, want)
	}
}

// A delivery that is lost while it waits for its subject is passed over, and holds those behind it up no longer.
func TestHoldingsPassOverWhatWasLostInItsSubject(t *testing.T) {
	t.Parallel()
	var w holdings
	w.init(2, true, nobody{}.New)
	of := &membership{stream: "booking"}
	of.fresh.Store(math.MaxInt64)
	now := time.Now()
	var hs []*Holding
	for ms := range uint64(4) {
		hs = append(hs, w.hold(nil, []redisstream.Delivered{{Ref: redisstream.Ref{Stream: "booking", ID: redisstream.ID{MS: ms}}}})...)
		hs[ms].of, *hs[ms].Event = of, wire.Event{ID: fmt.Sprint(ms), Subject: "one"}
	}
	w.enqueue(hs, now)
	w.lose(hs[1].ref)
	w.lose(hs[2].ref)
	for _, want := range []*Holding{hs[0], hs[3]} {
		if out, _, _ := w.next(now); !slices.Equal(out, []*Holding{want}) || !w.begin(want, now) {
			t.Fatalf("%d are handed out, want the one at %v", len(out), want.ref.ID)
		}
		w.finish(want, heldEnded, 0)
		w.settled(want)
	}
	if len(w.held)+len(w.subjects) > 0 {
		t.Errorf("left: %v, %v", w.held, w.subjects)
	}
}

// A delivery that is to be tried in a pause waits for its place, since long ago: it is not left to an idle
// peer, which may not begin it.
func TestG07ProbeIsNotLeftToAPeer(t *testing.T) {
	t.Parallel()
	var w holdings
	w.init(1, false, nobody{}.New)
	of := &membership{stream: "booking"}
	of.fresh.Store(math.MaxInt64)
	of.pause.self = "me"
	now := time.Now()
	of.pause.heard(pausedBy("me").Text(), now)
	hs := w.hold(nil, []redisstream.Delivered{{Ref: redisstream.Ref{Stream: "booking", ID: redisstream.ID{MS: 1}}}})
	hs[0].of = of
	w.enqueue(hs, now)
	w.next(now)
	due := now.Add(probeFirst)
	w.tryParked(of, due)
	if back := w.share(of, due); len(back) > 0 {
		t.Error("it is left to a peer")
	}
	if out, _, _ := w.next(due); !slices.Equal(out, hs) {
		t.Errorf("%d are handed out, want the one that is tried", len(out))
	}
}

// What waits for the end of a pause goes on when it ends.
func TestG02WhatWaitsForTheEndOfAPauseGoesOn(t *testing.T) {
	t.Parallel()
	var w holdings
	w.init(1, false, nobody{}.New)
	of := &membership{stream: "booking"}
	of.fresh.Store(math.MaxInt64)
	now := time.Now()
	of.pause.heard(Pause{By: PausedByOperator}.Text(), now)
	hs := w.hold(nil, []redisstream.Delivered{{Ref: redisstream.Ref{Stream: "booking", ID: redisstream.ID{MS: 1}}}})
	hs[0].of = of
	w.enqueue(hs, now)
	if out, _, _ := w.next(now); len(out) > 0 || w.count[heldPaused] != 1 {
		t.Fatalf("%d begin, and %d wait for the end of the pause", len(out), w.count[heldPaused])
	}
	if e := of.pause.heard("", now.Add(time.Second)); !e.ended {
		t.Fatal("the pause has not ended")
	}
	w.resume(of)
	if out, _, _ := w.next(now); !slices.Equal(out, hs) {
		t.Errorf("%d go on, want the one that waited", len(out))
	}
}

// What waits for a place when its consumer stops itself is handed back, and those of its subject when it
// is in the log, one after the other.
func TestG09WhatIsHandedBackHoldsItsSubject(t *testing.T) {
	t.Parallel()
	var w holdings
	w.init(1, true, nobody{}.New)
	of := &membership{stream: "booking"}
	of.fresh.Store(math.MaxInt64)
	now := time.Now()
	var hs []*Holding
	for ms, subject := range []string{"other", "one", "one", "one"} {
		hs = append(hs, w.hold(nil, []redisstream.Delivered{{Ref: redisstream.Ref{Stream: "booking", ID: redisstream.ID{MS: uint64(ms)}}}})...)
		hs[ms].of, *hs[ms].Event = of, wire.Event{ID: fmt.Sprint(ms), Subject: subject}
	}
	w.enqueue(hs, now)
	w.next(now) // the first one has the place
	back, _ := w.stop(pausedBy("me"), now)
	for i, h := range hs[1:] {
		if !slices.Equal(back, []*Holding{h}) {
			t.Fatalf("%d are handed back, want the one at %v", len(back), h.ref.ID)
		}
		if _, _, early := w.next(now); len(early) > 0 {
			t.Fatalf("%d more are handed back, and number %d is not in the log", len(early), i)
		}
		w.settled(h)
		_, _, back = w.next(now)
	}
}

// Each read costs the server as much as ten events: as long as the last one has not been looked at, the next one would only bring less.
func TestG12ReadWaitsUntilTheLastOneWasTaken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var w holdings
		w.init(100, false, nobody{}.New)
		w.arrive(w.hold(nil, []redisstream.Delivered{{Ref: redisstream.Ref{Stream: "booking", ID: redisstream.ID{MS: 1}}}}), false)
		room := 0
		go func() { room = w.freeMuch(t.Context()) }()
		if synctest.Wait(); room != 0 {
			t.Errorf("there is room for %d before the entry was taken", room)
		}
		w.nextArrival()
		if synctest.Wait(); room != 99 {
			t.Errorf("room for %d, want 99", room)
		}
	})
}
