package pipeline

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// handed is a delivery that is handed out, with its message and its ctx in one piece of memory: a group handles hundreds of thousands
// a second.
type handed struct {
	Delivery
	consumer *consumer
	of       *membership
	message  message.Message
	ctx      deliveryContext
	end      func(error)   // of the Process hook; nil for none
	over     atomic.Bool   // it was settled
	done     chan struct{} // closed then; nil where nobody watches

	suspect bool        // it may have been what its last consumer died of
	cleared bool        // suspectLoop has raised its count
	probe   bool        // its result decides whether a paused group goes on
	lost    atomic.Bool // another consumer has it by now
	limiter *limiter    // nil without Policy.Timeout
}

// settle ends the delivery; only the first call counts.
func (h *handed) settle(err error) {
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
