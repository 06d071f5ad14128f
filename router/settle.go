package router

import (
	"context"
	"errors"
	"runtime"
	"slices"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/rishi-platform/millrace/pipeline"
)

// errNoDelivery: only a bus puts deliveries into the context of its messages, and a middleware must derive from it.
var errNoDelivery = errors.New("context of the message carries no delivery; a middleware must derive its context from msg.Context()")

// maxStack bounds the stack that a PanicError keeps. The innermost frames come first, so what is cut off is Watermill's.
const maxStack = 8 << 10

// PanicError is the failure of a handler that panicked.
type PanicError = pipeline.PanicError

// settle is the outermost middleware: whatever happens inside of it, the delivery is settled exactly once, by a deferred call
// that not even runtime.Goexit skips. Watermill's router is told nothing; it would log each error a second time.
func (r *Router) settle(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) (_ []*message.Message, err error) {
		ctx := msg.Context() // of the delivery; what is in msg later is up to the middleware
		d := pipeline.CurrentDelivery(ctx)
		if d == nil {
			return nil, errNoDelivery
		}
		r.running.Add(1)
		returned := false
		defer func() {
			if !returned {
				err = &PanicError{Value: recover(), Stack: stack()}
			}
			r.report(ctx, d, err)
			r.running.Add(-1)
			d.Settle(err)
			err = nil
		}()

		if !d.Begin() {
			returned = true
			return nil, pipeline.ErrLeaseLost
		}
		if len(r.middleware) > 0 { // which may change it in place; a retry brings what is stored
			msg.Payload = slices.Clone(msg.Payload)
		}
		produced, err := next(msg)
		if err == nil && len(produced) > 0 {
			err = message.ErrOutputInNoPublisherHandler
		}
		returned = true
		return nil, err
	}
}

// report logs a failure. What the drain deadline interrupted has not failed, since its event is handed back to the group: it
// is counted, and Run says so.
func (r *Router) report(ctx context.Context, d *pipeline.Delivery, err error) {
	if errors.Is(context.Cause(ctx), pipeline.ErrDrainDeadline) {
		r.cut.Add(1)
		return
	}
	if err == nil || errors.Is(context.Cause(ctx), pipeline.ErrLeaseLost) { // the consumer says so
		return
	}
	attrs := []any{"group", d.Group, "type", d.Event.Type, "id", d.Event.ID, "attempt", d.Attempt, "err", err}
	var later *pipeline.RetryAfterError
	if errors.As(err, &later) {
		r.cfg.Logger.InfoContext(ctx, "handler asks for more time", attrs...)
		return
	}
	var fault *pipeline.WorkerError
	if errors.As(err, &fault) {
		r.cfg.Logger.ErrorContext(ctx, "handler can't be run by this process", attrs...)
		return
	}
	var panicked *PanicError
	if errors.As(err, &panicked) {
		r.cfg.Logger.ErrorContext(ctx, "handler panicked", append(attrs, "stack", panicked.Stack)...)
		return
	}
	r.cfg.Logger.WarnContext(ctx, "handler failed", attrs...)
}

func stack() string {
	buf := make([]byte, maxStack)
	return string(buf[:runtime.Stack(buf, false)])
}
