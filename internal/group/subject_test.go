package group

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

func subjectHoldings(size int, perSubject bool) (*holdings, func(ms uint64, id string) *Holding) {
	w := &holdings{}
	w.init(size, perSubject, nobody{}.New)
	of := &membership{stream: "booking"}
	of.fresh.Store(math.MaxInt64)
	return w, func(ms uint64, id string) *Holding {
		ref := redisstream.Ref{Stream: "booking", ID: redisstream.ID{MS: ms}}
		h := w.hold(nil, []redisstream.Delivered{{Ref: ref}})[0]
		h.of, h.Event.ID, h.Event.Subject = of, id, "s"
		return h
	}
}

// Deliveries that wait in the log come back before and after the attempt that they wait for.
func TestG13WhatComesBackKeepsItsOrder(t *testing.T) {
	t.Parallel()
	now := time.Now()
	w, hold := subjectHoldings(2, true)
	one := func() *Holding {
		t.Helper()
		out, _, _ := w.next(now)
		if len(out) != 1 || !w.begin(out[0], now) {
			t.Fatalf("%d are handed out, want 1", len(out))
		}
		return out[0]
	}
	arrive := func(ms uint64, id string) (away bool) {
		h := hold(ms, id)
		off := w.enqueue([]*Holding{h}, now)
		for _, o := range off {
			w.report(o.h)
			w.settled(o.h)
		}
		return len(off) > 0
	}
	arrive(1, "0")
	first := one()
	w.finish(first, heldEnded, time.Second) // it failed, and is tried again in a second
	w.settled(first)
	for i, id := range []string{"1", "2", "3", "4"} {
		if away := arrive(uint64(2+i), id); away != (i >= 2) {
			t.Fatalf("%s waits in the log: %v", id, away)
		}
	}
	if !arrive(10, "3") { // it is due, and the subject waits on: it waits in the log once more
		t.Fatal("3 waits here")
	}
	arrive(11, "0") // the next attempt, which succeeds
	h := one()
	w.finish(h, heldEnded, 0)
	w.settled(h)
	var order []string
	run := func() {
		for {
			out, _, _ := w.next(now)
			if len(out) == 0 {
				return
			}
			for _, h := range out {
				w.begin(h, now)
				order = append(order, h.Event.ID)
				w.finish(h, heldEnded, 0)
				w.settled(h)
			}
		}
	}
	run()
	for _, id := range []string{"4", "3", "4"} { // they are due; 4 comes too early
		arrive(uint64(12+len(order)+len(id)), id)
		run()
	}
	if want := []string{"1", "2", "3", "4"}; !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
}

// A peer has a delivery whose handler fails here: the next one of the subject goes on.
func TestG13LostDeliveryHoldsNoSubject(t *testing.T) {
	t.Parallel()
	now := time.Now()
	w, hold := subjectHoldings(2, true)
	a, b := hold(1, "a"), hold(2, "b")
	w.enqueue([]*Holding{a, b}, now)
	out, _, _ := w.next(now)
	if len(out) != 1 || !w.begin(a, now) {
		t.Fatal(out)
	}
	w.lose(a.ref)
	w.finish(a, heldEnded, 5*time.Minute) // as settle does with what the handler returned when its ctx ended
	if out, _, _ := w.next(now); len(out) != 1 || out[0] != b {
		t.Fatalf("%d are handed out, want the next one of the subject", len(out))
	}
}

// What waits for the result of another one that may kill leaves room for others.
func TestDangerousOnesThatWaitTakeNoRoom(t *testing.T) {
	t.Parallel()
	now := time.Now()
	w, hold := subjectHoldings(4, false)
	var hs []*Holding
	for ms := range uint64(4) {
		h := hold(ms+1, "x")
		h.suspect, h.raised, h.Crashes, h.taken = true, true, 1, true
		hs = append(hs, h)
	}
	w.enqueue(hs, now)
	out, _, _ := w.next(now)
	if len(out) != 1 {
		t.Fatal(out)
	}
	w.begin(out[0], now)
	if room := w.room(); room <= 0 {
		t.Errorf("3 places are free, and there is room to read %d", room)
	}
}
