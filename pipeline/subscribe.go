package pipeline

import "context"

// Subscription is an instance's own copy of the events of some types: every instance gets every event.
type Subscription struct {
	// Patterns of the event types to hear of. Empty: all but those of the stream "system".
	Patterns []string
	// LocalOnly hears only of what this process published, and only from its memory.
	LocalOnly bool
	// From is where to begin: at that position, the event there included, so that At(t) begins with the first event stored at t or
	// later. It holds for streams that are made later too, which are found within seconds; with Now such a stream is heard from its
	// beginning, or from some seconds before Subscribe where other software had filled it before. Default: Now.
	From Position
	// After is where to begin instead of From: behind the place that another subscription had got to (CurrentCursor, Bus.Cursor), in this process or
	// another one. A stream that it does not name is heard as one that is made later. What the other one heard before Redis had it, while Redis was
	// away, is heard again; what is local to another process is not.
	After Cursor
	// Gap is called, between calls of fn, when events are gone that were to be heard: removed while this process was slow or away, or with
	// their stream. Default: a line in the log, which there is in any case.
	Gap func(Gap)
}

// Subscribe calls fn for each event that s selects, one at a time, in the order of each stream. It returns once the place to
// begin at is fixed: what is published after that is heard. fn should be quick; while it runs, later events of the
// subscription wait in their stream, and the oldest may be removed there, which Gap tells. Other subscriptions do not wait for it for more than a moment.
// An error of fn is logged, and changes nothing.
//
// An outage does not end a subscription: it goes on from where it was. What keeps it from reading is logged, once. It ends with
// Unsubscribe, with ctx, or with Close, which waits for fn and so must not be called in it. In fn, ctx carries the correlation and
// causation of the event, and CurrentRecord(ctx) tells where it stands.
func (b *Bus) Subscribe(ctx context.Context, s Subscription, fn func(context.Context, Event) error) (id string, err error) {
	return b.subscribe(ctx, s, fn)
}

// Unsubscribe ends a subscription. A call of its function that has begun may still be running when Unsubscribe returns, with a
// ctx that has ended. ErrUnknownSubscription if there is none.
func (b *Bus) Unsubscribe(id string) error { return b.unsubscribe(id) }
