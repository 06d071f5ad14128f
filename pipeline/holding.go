package pipeline

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/rishi-platform/millrace/internal/redisstream"
)

// A holding is one entry that a consumer holds, from the read that brought it until its result is in
// the log or another consumer has it. Its state says where it stands, and only holdings.move changes
// that. An entry that was lost and comes back is another holding: the first one can't run any more.
//
// It is the delivery, its message and its ctx in one piece of memory: a group handles hundreds of
// thousands a second. So its size counts, and small fields stand together.
type holding struct {
	Delivery
	consumer *consumer
	of       *membership
	since    time.Time
	entry    *redisstream.Entry // as it was read; nil when it is wire.Decoded

	message message.Message
	ctx     deliveryContext
	end     func(error)   // of the Process hook; nil for none
	over    atomic.Bool   // it was settled, or dropped
	gone    bool          // it is pending, and its payload was trimmed or deleted
	calm    bool          // few others were handled when its handler began; see Labelled
	suspect bool          // it may have been what its last consumer died of
	raised  bool          // the count of a suspect was raised: see suspect.go
	done    chan struct{} // closed when it is over; nil where nobody watches
	limiter *limiter      // nil without Policy.Timeout

	delivered int           // how often the log says that it was delivered, for a suspect; 0: unknown
	awayFor   time.Duration // it is on its way to wait in the log for so long; see subject

	// What follows is guarded by holdings.mu.
	began   time.Time   // when its handler did; under a foreign router, when that took it; zero: not yet
	probe   atomic.Bool // its result decides whether a paused group goes on
	trial   atomic.Bool // its result decides whether this consumer goes on, which has stopped itself
	raising bool        // the count of a suspect is being raised, or was, and the log may know of it
	taken   bool        // it was taken over or fetched, and goes ahead of what was read
	state   holdingState
}

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
func (h *holding) isDangerous() bool { return h.suspect && h.Crashes > 0 }

// begin reports whether the handler may start; else the delivery is over, and its ctx ends.
func (h *holding) begin() bool {
	if h.consumer.holdings.begin(h, time.Now()) {
		return true
	}
	h.of.beatSoon()
	h.ctx.cancel(ErrLeaseLost)
	return false
}

// settle ends the delivery; only the first call counts.
func (h *holding) settle(err error) {
	if h.over.Swap(true) {
		return
	}
	if h.done != nil {
		close(h.done)
	}
	err = h.unlimit().judge(err)
	if h.end != nil {
		h.end(err) // first: a failed attempt leaves its trace context for the retry in d.Previous
	}
	h.consumer.settle(h, err)
	h.ctx.cancel(nil)
}

// takeBack ends a delivery that nobody took.
func (h *holding) takeBack() {
	h.over.Store(true)
	if h.end != nil {
		h.end(context.Canceled)
	}
	h.ctx.cancel(ErrDrainDeadline)
	h.unlimit()
	h.consumer.holdings.finish(h, heldRead, 0)
}

// deliveryContext is the ctx of a delivery: it ends with the handling of its consumer, or when the delivery is settled. What it
// publishes shares the correlation of the event and is caused by it. A real context is made of it when somebody asks for its
// end; most handlers never do.
type deliveryContext struct {
	parent   context.Context
	delivery *Delivery

	mu    sync.Mutex // guards what follows
	real  context.Context
	stop  context.CancelCauseFunc
	ended bool
	cause error // of the end, where it came before real was made
}

// cancel ends the context.
func (c *deliveryContext) cancel(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	c.ended, c.cause = true, cause
	if c.real != nil {
		c.stop(cause)
	}
}

// made returns the real context, made if it is not there.
func (c *deliveryContext) made() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.real == nil {
		c.real, c.stop = context.WithCancelCause(c.parent)
		if c.ended {
			c.stop(c.cause)
		}
	}
	return c.real
}

func (c *deliveryContext) Deadline() (time.Time, bool) { return c.parent.Deadline() }

func (c *deliveryContext) Done() <-chan struct{} { return c.made().Done() }

func (c *deliveryContext) Err() error {
	c.mu.Lock()
	untouched := c.real == nil && !c.ended
	c.mu.Unlock()
	if untouched {
		return c.parent.Err()
	}
	return c.made().Err()
}

// Value knows what withCause puts into other contexts. All else, the standard library's own keys too, is the real context's, once that
// is needed.
func (c *deliveryContext) Value(key any) any {
	switch key.(type) {
	case deliveryKey:
		return c.delivery
	case causationKey:
		return c.delivery.Event.ID
	case correlationKey:
		if id := c.delivery.Event.CorrelationID; ValidCorrelationID(id) {
			return id
		}
		return c.parent.Value(key)
	}
	c.mu.Lock()
	untouched := c.real == nil && !c.ended
	c.mu.Unlock()
	if untouched {
		return c.parent.Value(key)
	}
	return c.made().Value(key)
}

// String names the context in what prints one.
func (c *deliveryContext) String() string { return "delivery " + c.delivery.Event.ID }
