package telemetry

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/rishi-platform/millrace/pipeline"
)

// nearby is how old an event may be for its attempt to join the trace of its publish in mode Auto.
const nearby = 5 * time.Minute

// process is the Process hook: one span for each attempt. Attempts are siblings: none is the parent of another.
func (s *spans) process(ctx context.Context, d *pipeline.Delivery) (context.Context, func(error)) {
	creation := s.creation(ctx, d.Stream, d.Event.Header)
	links := linked(nil, creation, linkCreation)
	links = linked(links, s.parse(ctx, d.Stream, d.Hop), linkHop)
	links = linked(links, s.parse(ctx, d.Stream, d.Previous), linkPreviousAttempt)

	// The parent is the creation or none, never what the consumer was started under: that would be one trace without end.
	age := max(time.Since(d.Event.Time), 0) // clocks differ
	var parent trace.SpanContext
	if s.continues(d, age) {
		parent = creation
	}
	ctx, span := s.tracer.Start(trace.ContextWithRemoteSpanContext(ctx, parent), "process "+d.Stream,
		trace.WithSpanKind(trace.SpanKindConsumer), trace.WithLinks(links...), trace.WithAttributes(s.processAttributes(d, age)...))

	return ctx, func(err error) {
		if err != nil {
			fail(span, err)
			d.Previous = contextOf(ctx, parent)
		}
		span.End()
	}
}

// continues reports whether the attempt joins the trace of the publish. A delivery that was taken over does: it is the same
// message, which nobody sent again.
func (s *spans) continues(d *pipeline.Delivery, age time.Duration) bool {
	switch s.mode {
	case Continue:
		return true
	case Link:
		return false
	}
	return d.Origin != pipeline.OriginRetry && d.Origin != pipeline.OriginReplay && age <= nearby
}

// contextOf returns the span context of a failed attempt as a traceparent. Without an SDK there is no span of the attempt
// and ctx carries the parent's context, which is not that of an attempt.
func contextOf(ctx context.Context, parent trace.SpanContext) string {
	if trace.SpanContextFromContext(ctx).SpanID() == parent.SpanID() {
		return ""
	}
	return Headers(ctx)[pipeline.HeaderTraceParent]
}

func (s *spans) processAttributes(d *pipeline.Delivery, age time.Duration) []attribute.KeyValue {
	if s.silent {
		return nil
	}
	attrs := append(s.start(d.Stream, "process", semconv.MessagingOperationTypeProcess),
		semconv.MessagingClientID(d.Consumer),
		semconv.MessagingConsumerGroupName(d.Group),
		semconv.MessagingMessageID(d.Event.ID),
		keyPosition.String(string(d.Position)),
		keyAttempt.Int(d.Attempt),
		keyAgeMS.Int64(age.Milliseconds()),
		keyClaimed.Bool(d.Claimed),
	)
	// What other software wrote may lack these, and its correlation ID may be anything.
	if pipeline.ValidCorrelationID(d.Event.CorrelationID) {
		attrs = append(attrs, semconv.MessagingMessageConversationID(d.Event.CorrelationID))
	}
	if d.Event.CausationID != "" {
		attrs = append(attrs, keyCausationID.String(d.Event.CausationID))
	}
	return attrs
}
