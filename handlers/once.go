package handlers

import (
	"context"
	"fmt"
	"time"

	"github.com/rishi-platform/millrace/pipeline"
	"github.com/rishi-platform/millrace/router"
)

// Once calls the handler only for events that the group has not done: an event that comes again after it was handled (its process died before
// it could acknowledge, Redis lost the acknowledgement, an operator replays it) is acknowledged without a call. Effects that must
// not happen twice belong behind it:
//
//	group.Handle("invoice.issued", handlers.Once(bus.OnceStore(7*24*time.Hour), sendMail))
//
// An event is remembered after the handler has returned nil, never before: one that fails, or whose process dies, comes again and is
// handled. So Once narrows the time in which something is done twice to that between the effect and the mark, and to deliveries of one
// event that run at the same moment; it does not close it. Where the store can't be asked, nothing is called, and the delivery comes
// again at no cost of an attempt.
func Once(store pipeline.OnceStore, h router.Handler) router.Handler {
	return func(ctx context.Context, d *pipeline.Delivery) error {
		done, err := store.Done(ctx, d)
		if err != nil {
			return router.RetryAfter(fmt.Errorf("once: %w", err), 0)
		}
		if done {
			return nil
		}
		if err := h(ctx, d); err != nil || ctx.Err() != nil {
			return err // nil from a handler whose ctx has ended may mean that it gave up half-way: its group does not take it for success either
		}
		// The ctx may end now. What was done is done all the same, and to fail would do it again.
		marking, cancel := context.WithTimeout(context.WithoutCancel(ctx), markTimeout)
		defer cancel()
		for wait := 20 * time.Millisecond; store.Mark(marking, d) != nil; wait *= 2 {
			select {
			case <-time.After(wait):
			case <-marking.Done():
				return nil
			}
		}
		return nil
	}
}

// markTimeout is how long it is tried to remember an event. Without the mark it is what it would be without Once.
const markTimeout = 3 * time.Second
