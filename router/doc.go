// Package router runs typed handlers on consumer groups. It is Watermill's message.Router with three things settled: what
// a handler looks like, what becomes of its error, and how a stop goes.
//
//	r := router.New(bus, router.Config{})
//	billing := r.Group("billing", router.Policy{})
//	router.Handle(billing, BookingCreated, func(ctx context.Context, m router.Message[Booking]) error {
//		return charge(ctx, m.Data)
//	})
//	err := r.Run(ctx) // until ctx ends, then it drains
//
// # The way of a delivery
//
// A group is one subscription and one Watermill handler, however many event types it handles: the group takes the union of
// their patterns, so an event that a sibling instance handles and this one does not is never acknowledged unseen. From the
// outside in:
//
//	subscription ─► settle ─► middleware of Use, first added first ─► dispatch by type ─► handler
//
// settle is ours and outermost. It recovers panics and hands what the rest returned to the delivery, exactly once: nil
// acknowledges the event, an error or a panic makes the attempt a failure, and the group's Policy says what follows. The Ack and
// Nack of Watermill's message have no effect, so a middleware decides by what it returns. What it
// makes of the payload is what the handler gets.
//
// The ctx of a handler carries the correlation and causation of its event. What the handler publishes with it belongs to
// the same story without anybody passing IDs on.
//
// # The stop
//
// Stop taking work is not abandon work. When the ctx of Run ends, the subscriptions stop reading first, all at the same
// time. Handlers go on with a ctx that stays alive until the drain deadline; only then is it cancelled, with the cause
// pipeline.ErrDrainDeadline, and what was not settled is handed back to the group. A handler that does not heed its ctx is
// waited for a little longer and then left behind, and Run says so.
//
// Watermill's router would cancel the ctx of its subscriptions and close them at the same moment, in either order, and one
// subscription that fails to start would leave the others running. So Run opens and closes the subscriptions itself,
// and Watermill's router ends because its channels do.
package router
