package pipeline

import "context"

// Hooks are called at the turning points of an event's life, like httptrace.ClientTrace: nil fields are skipped. They run
// on the caller's goroutine, so they must be quick and must not call the bus. Package telemetry makes Hooks out of
// OpenTelemetry; several sets are joined with JoinHooks.
type Hooks struct {
	// Publish is called once per call of Publish and stream, after validation and before encoding. It may add to the
	// Header of the events (that is how a creation context gets in) and returns the ctx that the publish goes on with, where the
	// call has one stream, and a function that is called with the outcomes of these events, in the same order. Either may be
	// nil.
	Publish func(ctx context.Context, p PublishInfo) (context.Context, func([]Outcome))

	// Process is called for each attempt, just before a delivery is handed to its handler, and returns the ctx of the
	// handler and a function that is called once with the error it was settled with (nil: acked), before the settlement is
	// written: what it sets in d.Previous goes into the retry. Either may be nil.
	Process func(ctx context.Context, d *Delivery) (context.Context, func(error))

	// State is called after the state of the bus has changed.
	State func(from, to State, cause error)

	// Lost is called when this process notices that events are lost that were accepted. Restored is still 0 then.
	Lost func(Loss)

	// Unhandled is called for each event that a group acked because it is outside of the group's patterns.
	Unhandled func(stream, group, eventType string)
}

// PublishInfo is what the Publish hook sees: the events of one call that go to one stream.
type PublishInfo struct {
	Stream string
	Scope  Scope
	Events []*Event // the bus's own copies, stamped; Header is never nil and may be added to
}

// JoinHooks returns hooks that call each of hs in order; done functions run in reverse order.
func JoinHooks(hs ...Hooks) Hooks {
	var joined Hooks
	for _, h := range hs {
		joined = joinHooks(joined, h)
	}
	return joined
}

func joinHooks(a, b Hooks) Hooks {
	return Hooks{
		Publish:   joinSpan(a.Publish, b.Publish),
		Process:   joinSpan(a.Process, b.Process),
		State:     join3(a.State, b.State),
		Lost:      join1(a.Lost, b.Lost),
		Unhandled: join3(a.Unhandled, b.Unhandled),
	}
}

// joinSpan joins two hooks of the shape "open something around a step".
func joinSpan[A, R any](a, b func(context.Context, A) (context.Context, func(R))) func(context.Context, A) (context.Context, func(R)) {
	if a == nil {
		return b
	}
	if b == nil {
		return a
	}
	return func(ctx context.Context, arg A) (context.Context, func(R)) {
		ctx, doneA := callSpan(a, ctx, arg)
		ctx, doneB := callSpan(b, ctx, arg)
		return ctx, func(r R) { doneB(r); doneA(r) }
	}
}

// callSpan calls a hook that may be nil and may return nil, and returns something that may be called in any case.
func callSpan[A, R any](hook func(context.Context, A) (context.Context, func(R)), ctx context.Context, arg A) (context.Context, func(R)) {
	if hook == nil {
		return ctx, func(R) {}
	}
	hookCtx, done := hook(ctx, arg)
	if hookCtx == nil {
		hookCtx = ctx
	}
	if done == nil {
		done = func(R) {}
	}
	return hookCtx, done
}

func join1[A any](a, b func(A)) func(A) {
	if a == nil {
		return b
	}
	if b == nil {
		return a
	}
	return func(x A) { a(x); b(x) }
}

func join3[A, B, C any](a, b func(A, B, C)) func(A, B, C) {
	if a == nil {
		return b
	}
	if b == nil {
		return a
	}
	return func(x A, y B, z C) { a(x, y, z); b(x, y, z) }
}
