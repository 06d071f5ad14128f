package telemetry

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/rishi-platform/millrace/pipeline"
)

// The values of millrace.link.kind.
const (
	linkCreation        = "creation"
	linkHop             = "hop"
	linkPreviousAttempt = "previous_attempt"
)

// Headers returns the trace context of ctx as W3C headers, traceparent and, where there is any, tracestate: what a handler
// passes on to a program or an HTTP server that it calls. Without a trace context the map is empty.
func Headers(ctx context.Context) map[string]string {
	headers := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, headers)
	return headers
}

// creation returns the creation context of an event, invalid where there is none. A malformed one is counted.
func (s *spans) creation(ctx context.Context, stream string, header map[string]string) trace.SpanContext {
	creation := s.extract(ctx, stream, header)
	if state := header[pipeline.HeaderTraceState]; state != "" && creation.IsValid() && creation.TraceState().Len() == 0 {
		s.malformed(ctx, stream) // the rest is good: W3C Trace Context section 3.3 keeps it
	}
	return creation
}

// parse returns the trace context that a traceparent stands for, invalid where it is empty. A malformed one is counted.
func (s *spans) parse(ctx context.Context, stream, parent string) trace.SpanContext {
	if parent == "" {
		return trace.SpanContext{}
	}
	return s.extract(ctx, stream, propagation.MapCarrier{pipeline.HeaderTraceParent: parent})
}

func (s *spans) extract(ctx context.Context, stream string, carrier propagation.MapCarrier) trace.SpanContext {
	if carrier[pipeline.HeaderTraceParent] == "" {
		return trace.SpanContext{}
	}
	extracted := trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), carrier))
	if !extracted.IsValid() {
		s.malformed(ctx, stream)
	}
	return extracted
}

// linked appends a link to a context that is valid.
func linked(links []trace.Link, to trace.SpanContext, kind string) []trace.Link {
	if !to.IsValid() {
		return links
	}
	return append(links, trace.Link{SpanContext: to, Attributes: []attribute.KeyValue{keyLinkKind.String(kind)}})
}
