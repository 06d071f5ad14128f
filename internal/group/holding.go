package group

import (
	"sync/atomic"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/wire"
)

// A holding is one entry that a consumer holds, from the read that brought it until its result is in
// the log or another consumer has it. Its state says where it stands, and only holdings.move changes
// that. An entry that was lost and comes back is another holding: the first one can't run any more.
//
// Its size counts, and small fields stand together: a group handles hundreds of thousands a second.
type Holding struct {
	// Event and Delivery are set by Outlet.New; the event has its memory in the delivery.
	Event    *wire.Event
	Delivery Delivery

	// What the entry says. A handler's Previous may be another one, which Delivery.Ended sets.
	Position string // of the event in its stream; also when the entry is a copy
	Origin   string
	Hop      string
	Previous string
	First    time.Time
	Attempt  int
	Crashes  int
	putOffs  int                // how often it was put off without a time, at no cost of an attempt
	others   []redisstream.Pair // metadata that a retry carries on

	consumer *Consumer
	of       *membership
	ref      redisstream.Ref
	since    time.Time
	entry    *redisstream.Entry // as it was read; nil when it is decoded
	limiter  *limiter           // nil without Policy.Timeout

	delivered int           // how often the log says that it was delivered, for a suspect; 0: unknown
	awayFor   time.Duration // it is on its way to wait in the log for so long; see subject

	over    atomic.Bool // it was settled, or dropped
	Claimed bool        // taken over from a consumer that died or left
	gone    bool        // it is pending, and its payload was trimmed or deleted
	calm    bool        // few others were handled when its handler began; see Labelled
	suspect bool        // it may have been what its last consumer died of
	raised  bool        // the count of a suspect was raised: see suspect.go

	// What follows is guarded by holdings.mu.
	began   time.Time   // when its handler did; under a foreign router, when that took it; zero: not yet
	probe   atomic.Bool // its result decides whether a paused group goes on
	trial   atomic.Bool // its result decides whether this consumer goes on, which has stopped itself
	raising bool        // the count of a suspect is being raised, or was, and the log may know of it
	taken   bool        // it was taken over or fetched, and goes ahead of what was read
	state   holdingState
}

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

// Settle ends the delivery with what its handler has returned; only the first call counts, which it
// reports.
func (h *Holding) Settle(err error) bool {
	if h.over.Swap(true) {
		return false
	}
	result := h.Delivery.Ended(err, h.unlimit())
	h.consumer.settle(h, result)
	h.Delivery.Cancel(nil)
	return true
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
	again.Position, again.Origin, again.Hop, again.Previous = h.Position, h.Origin, h.Hop, h.Previous
	again.First, again.Attempt, again.Crashes, again.Claimed = h.First, h.Attempt, h.Crashes, h.Claimed
	again.putOffs, again.others = h.putOffs, h.others
	again.consumer, again.of, again.ref, again.since = h.consumer, h.of, h.ref, h.since
	again.delivered, again.suspect, again.raised, again.raising = h.delivered, h.suspect, h.raised, h.raising
	return again
}
