package group

import (
	"sync/atomic"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/wire"
)

// Holding is one entry that a consumer holds, from the read that brought it until its result is in
// the log or another consumer has it. Its state says where it stands, and only holdings.move changes
// that. An entry that was lost and comes back is another holding: the first one can't run any more.
//
// Its size counts, and small fields stand together: a group handles hundreds of thousands a second, and with
// the delivery of package pipeline it just fits into 768 bytes, the next size being 896.
type Holding struct {
	// Event and Delivery are set by Outlet.New; the event has its memory in the delivery.
	Event    *wire.Event
	Delivery Delivery

	Position string    // of the event in its stream; also when the entry is a copy
	First    time.Time // when the first attempt began
	notes    *Notes    // nil for a fresh entry

	consumer *Consumer
	of       *membership
	ref      redisstream.Ref
	entry    *redisstream.Entry // as it was read; nil when it is decoded
	limiter  *limiter           // nil without Policy.Timeout
	since    instant
	awayFor  time.Duration // it is on its way to wait in the log for so long; see subject

	Attempt, Crashes int32
	delivered        int32 // how often the log says that it was delivered, for a suspect; 0: unknown

	over    atomic.Bool // it was settled, or dropped
	Claimed bool        // taken over from a consumer that died or left
	gone    bool        // it is pending, and its payload was trimmed or deleted
	calm    bool        // few others were handled when its handler began; see Labelled
	suspect bool        // it may have been what its last consumer died of
	raised  bool        // the count of a suspect was raised: see suspect.go

	// What follows is guarded by holdings.mu.
	raising bool // the count of a suspect is being raised, or was, and the log may know of it
	taken   bool // it was taken over or fetched, and goes ahead of what was read
	state   holdingState
	probe   atomic.Bool // its result decides whether a paused group goes on
	trial   atomic.Bool // its result decides whether this consumer goes on, which has stopped itself
	began   instant     // when its handler did; under a foreign router, when that took it; zero: not yet
}

// Notes are what a copy of an event says of the attempts before it.
type Notes struct {
	Origin   string
	Hop      string
	Previous string
	putOffs  int                // how often it was put off without a time, at no cost of an attempt
	others   []redisstream.Pair // metadata that a retry carries on
}

// Notes are what a copy notes; none for a fresh entry.
func (h *Holding) Notes() Notes {
	if h.notes == nil {
		return Notes{}
	}
	return *h.notes
}

// note changes the notes, which may not be there yet.
func (h *Holding) note(change func(*Notes)) {
	if h.notes == nil {
		h.notes = &Notes{}
	}
	change(h.notes)
}

// SetPrevious notes the trace context of the attempt, which the next one is told.
func (h *Holding) SetPrevious(traceparent string) {
	if traceparent != h.Notes().Previous {
		h.note(func(n *Notes) { n.Previous = traceparent })
	}
}

// instant is a time by the clock that never steps, in nanoseconds from when the process began. Zero is none.
type instant int64

var processBegan = time.Now()

func instantOf(t time.Time) instant { return instant(t.Sub(processBegan)) }

func (i instant) time() time.Time { return processBegan.Add(time.Duration(i)) }

// Ref is where the entry stands.
func (h *Holding) Ref() redisstream.Ref { return h.ref }

// Stream is the stream of the event.
func (h *Holding) Stream() string { return h.ref.Stream }

// holdingState is where a holding stands.
//
//	read ─► paused, subject, aside, dangerous, turn ─► placed ─► handed ─► running ─► ended ─► gone
//	read ─► others ─► gone
//
// What waits goes back to turn when its reason to wait has ended. Anything that has not ended may be
// lost: then it is gone, or lost while its handler runs on.
type holdingState uint8

const (
	heldRead      holdingState = iota // nobody has looked at it
	heldOthers                        // is not handled here, and waits until it is passed on
	heldPaused                        // waits for the end of a pause
	heldSubject                       // waits for another one of its subject
	heldAside                         // waits for a beat of its stream
	heldDangerous                     // waits for the result of another one that processes have died of
	heldTurn                          // waits for a place
	heldPlaced                        // has a place, and its count is being raised
	heldHanded                        // has a place and was handed out, and its handler has not begun
	heldRunning                       // its handler runs
	heldLent                          // its handler runs on, and its place was given to another one
	heldLost                          // its handler runs on, and another consumer has it
	heldEnded                         // its result is on the way into the log
	heldGone                          // it is held no more
	holdingStates                     // how many there are
)

// isDangerous reports whether processes are known to have died while they handled it.
func (h *Holding) isDangerous() bool { return h.suspect && h.Crashes > 0 }

// Begin reports whether the handler may start; else the delivery is over, and its ctx ends.
func (h *Holding) Begin() bool {
	if h.consumer.holdings.begin(h, time.Now()) {
		return true
	}
	h.of.beatSoon()
	h.Delivery.Cancel(ErrLeaseLost)
	return false
}

// Settle ends the delivery with what its handler has returned; only the first call counts.
func (h *Holding) Settle(err error) {
	if h.over.Swap(true) {
		return
	}
	result := h.Delivery.Ended(err, h.unlimit())
	h.consumer.settle(h, result)
	h.Delivery.Cancel(nil)
}

// TakeBack ends a delivery that nobody took.
func (h *Holding) TakeBack() {
	h.over.Store(true)
	h.Delivery.TakenBack()
	h.unlimit()
	h.consumer.holdings.finish(h, heldRead, 0)
}

// Took notes that a foreign router has taken the delivery, whose handler may run from now on.
func (h *Holding) Took() { h.consumer.holdings.took(h, time.Now()) }

// Labelled reports whether the handler is to run under a profiler label, which costs 100 ns and three
// allocations.
func (h *Holding) Labelled() bool { return h.calm || h.consumer.cfg.Policy.Timeout > 0 }

// anew makes another holding of the same entry, which has not been handed out.
func (h *Holding) anew(again *Holding) *Holding {
	*again.Event = *h.Event
	again.Position, again.First, again.Attempt, again.Crashes = h.Position, h.First, h.Attempt, h.Crashes
	again.Claimed = h.Claimed
	if h.notes != nil {
		notes := *h.notes // what becomes of the other one is not its
		again.notes = &notes
	}
	again.consumer, again.of, again.ref, again.since = h.consumer, h.of, h.ref, h.since
	again.delivered, again.suspect, again.raised, again.raising = h.delivered, h.suspect, h.raised, h.raising
	return again
}
