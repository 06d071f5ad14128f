package telemetry

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/rishi-platform/millrace/pipeline"
)

// publish is the Publish hook: one span for the events of one call that go to one stream. Events without a creation context
// get that of the span; those that have one keep it, and the span links to it.
func (s *spans) publish(ctx context.Context, p pipeline.PublishInfo) (context.Context, func([]pipeline.Outcome)) {
	var links []trace.Link
	var created []*pipeline.Event
	for _, e := range p.Events {
		if creation := s.creation(ctx, p.Stream, e.Header); creation.IsValid() {
			links = linked(links, creation, linkCreation)
		} else {
			created = append(created, e)
		}
	}
	// Only a span that stands for one event, and creates it, is that event's producer.
	kind := trace.SpanKindClient
	if len(p.Events) == 1 && len(created) == 1 {
		kind = trace.SpanKindProducer
	}
	ctx, span := s.tracer.Start(ctx, "publish "+p.Stream,
		trace.WithSpanKind(kind), trace.WithLinks(links...), trace.WithAttributes(s.publishAttributes(p)...))

	// An unsampled context is passed on as well: the decision not to sample belongs to the whole trace.
	if span.SpanContext().IsValid() {
		for _, e := range created {
			delete(e.Header, pipeline.HeaderTraceState) // it belonged to no context, or to a malformed one
			propagation.TraceContext{}.Inject(ctx, propagation.MapCarrier(e.Header))
		}
	}
	return ctx, func(outcomes []pipeline.Outcome) {
		if span.IsRecording() {
			published(span, outcomes)
		}
		span.End()
	}
}

// publishAttributes are those known before publishing. A batch has the IDs that all of its events share.
func (s *spans) publishAttributes(p pipeline.PublishInfo) []attribute.KeyValue {
	if s.silent {
		return nil
	}
	attrs := s.start(p.Stream, "publish", semconv.MessagingOperationTypeSend)
	if s.clientID != "" {
		attrs = append(attrs, semconv.MessagingClientID(s.clientID))
	}
	if len(p.Events) == 1 {
		attrs = append(attrs, semconv.MessagingMessageID(p.Events[0].ID))
	} else {
		attrs = append(attrs, semconv.MessagingBatchMessageCount(len(p.Events)))
	}
	if id := shared(p.Events, func(e *pipeline.Event) string { return e.CorrelationID }); id != "" {
		attrs = append(attrs, semconv.MessagingMessageConversationID(id))
	}
	if id := shared(p.Events, func(e *pipeline.Event) string { return e.CausationID }); id != "" {
		attrs = append(attrs, keyCausationID.String(id))
	}
	return attrs
}

// shared returns the value that all events have, empty where they differ.
func shared(events []*pipeline.Event, value func(*pipeline.Event) string) string {
	first := value(events[0])
	for _, e := range events[1:] {
		if value(e) != first {
			return ""
		}
	}
	return first
}

// published notes what became of the events: where a single one stands, and the first error. A batch has no one position.
func published(span trace.Span, outcomes []pipeline.Outcome) {
	if len(outcomes) == 1 && outcomes[0].Position != "" {
		span.SetAttributes(keyPosition.String(string(outcomes[0].Position)))
	}
	for _, o := range outcomes {
		if o.Err != nil {
			fail(span, o.Err)
			return
		}
	}
}
