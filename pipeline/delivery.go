package pipeline

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/rishi-platform/millrace/internal/group"
	"github.com/rishi-platform/millrace/internal/wire"
)

// outlet is where the deliveries of a consumer come out as Watermill messages.
type outlet struct {
	bus      *Bus
	cfg      GroupConfig
	consumer *group.Consumer
	out      chan *message.Message
}

// outBuffer is how many messages wait for the router at most.
const outBuffer = 64

// newOutlet returns an outlet without its consumer. A buffer spares a switch of goroutines per message. A foreign
// reader may stop reading at any time, and must find nothing in it then.
func newOutlet(b *Bus, cfg GroupConfig) *outlet {
	buffer := 0
	if cfg.SettledByHandler {
		buffer = min(outBuffer, cfg.InFlight)
	}
	return &outlet{bus: b, cfg: cfg, out: make(chan *message.Message, buffer)}
}

// delivered is a delivery in one piece of memory with what its consumer knows of it, its message and its ctx.
type delivered struct {
	holding  group.Holding
	delivery Delivery
	message  message.Message
	ctx      deliveryContext
	end      func(error)   // of the Process hook; nil for none
	done     chan struct{} // closed when it is over; nil where nobody watches
}

func (o *outlet) New() *group.Holding {
	d := &delivered{}
	d.holding.Event, d.holding.Delivery = (*wire.Event)(&d.delivery.Event), d
	d.delivery.holding = &d.holding
	return &d.holding
}

// HandOut sends the delivery as a Watermill message.
func (o *outlet) HandOut(h *group.Holding) bool {
	d, c := h.Delivery.(*delivered), o.consumer
	of := &d.delivery
	of.Stream, of.Position, of.Group, of.Consumer = h.Stream(), Position(h.Position), c.Group(), c.Name()
	notes := h.Notes()
	of.Attempt, of.Crashes, of.First, of.Claimed = int(h.Attempt), int(h.Crashes), h.First, h.Claimed
	of.Origin, of.Hop, of.Previous = notes.Origin, notes.Hop, notes.Previous
	d.ctx.parent, d.ctx.delivery = c.Handling(), of
	d.message.UUID, d.message.Payload = of.Event.ID, of.Event.Data
	if !o.cfg.WithoutMetadata {
		d.message.Metadata = wire.Metadata(h.Event)
	}
	m := &d.message
	if !o.cfg.SettledByHandler { // Ack and Nack of one that was not made by NewMessage can't be waited for
		m = message.NewMessage(m.UUID, m.Payload)
		m.Metadata = d.message.Metadata
		d.done = make(chan struct{})
	}
	var ctx context.Context = &d.ctx
	if hook := o.bus.cfg.Hooks.Process; hook != nil {
		ctx, d.end = callSpan(hook, ctx, of)
	}
	m.SetContext(ctx)
	h.Limit()
	select {
	case o.out <- m:
	case <-c.Reading().Done():
		return false
	}
	if !o.cfg.SettledByHandler {
		h.Took()
		c.Go("watch", func() { d.watch(m, c.Handling()) })
	}
	return true
}

// Close closes the channel of messages. Those that nobody has taken yet are given back.
func (o *outlet) Close() {
	for {
		select {
		case m := <-o.out:
			CurrentDelivery(m.Context()).holding.TakeBack()
		default:
			close(o.out)
			return
		}
	}
}

// watch settles the delivery as its message is acked or nacked: a foreign router has no other way to say it.
func (d *delivered) watch(m *message.Message, handling context.Context) {
	select {
	case <-m.Acked():
		d.holding.Settle(nil)
	case <-m.Nacked():
		d.holding.Settle(errNacked)
	case <-d.done:
	case <-handling.Done():
		d.holding.Settle(context.Cause(handling)) // its result would come too late; the delivery has been handed back
	}
}

// Cancel ends the ctx of the handler.
func (d *delivered) Cancel(cause error) { d.ctx.cancel(cause) }

// Ended returns what the failure of a handler means.
func (d *delivered) Ended(err error, timeout time.Duration) *group.Result {
	if d.done != nil {
		close(d.done)
	}
	if timeout > 0 {
		err = &TimeoutError{Timeout: timeout, Err: err}
	}
	if d.end != nil {
		d.end(err) // first: a failed attempt leaves its trace context for the retry in Previous
	}
	if err == nil {
		return nil
	}
	d.holding.SetPrevious(d.delivery.Previous)
	return resultOf(&d.delivery, err)
}

// TakenBack ends a delivery that nobody took.
func (d *delivered) TakenBack() {
	if d.end != nil {
		d.end(context.Canceled)
	}
	d.ctx.cancel(ErrDrainDeadline)
}

// resultOf says what an error of a handler means.
func resultOf(d *Delivery, err error) *group.Result {
	r := &group.Result{Err: err}
	r.Kind, r.Permanent = kindOf(d, err)
	var panicked *PanicError
	if errors.As(err, &panicked) {
		r.Stack = panicked.Stack
	}
	var later *RetryAfterError
	if r.Later = errors.As(err, &later); r.Later {
		r.After = later.After
	}
	var fault *WorkerError
	r.Fault = errors.As(err, &fault)
	return r
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
