package otlpsink

import (
	"encoding/hex"
	"strings"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
)

// Span is a span as a reader of traces sees it. IDs are lower-case hex.
type Span struct {
	Name       string
	Kind       string // internal, server, client, producer, consumer
	TraceID    string
	SpanID     string
	ParentID   string // empty for a root
	TraceState string
	Status     string // unset, ok, error
	StatusText string
	Attributes map[string]any // string, bool, int64, float64 or []any
	Links      []Link
	Events     []Event
	Resource   map[string]any
	Scope      string
	SchemaURL  string // of the scope
}

// Link is a link of a span.
type Link struct {
	TraceID    string
	SpanID     string
	Attributes map[string]any
}

// Event is an event of a span.
type Event struct {
	Name       string
	Attributes map[string]any
}

func spansOf(request *collector.ExportTraceServiceRequest) []Span {
	var spans []Span
	for _, resource := range request.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			for _, raw := range scope.GetSpans() {
				span := spanOf(raw)
				span.Resource = attributes(resource.GetResource().GetAttributes())
				span.Scope, span.SchemaURL = scope.GetScope().GetName(), scope.GetSchemaUrl()
				spans = append(spans, span)
			}
		}
	}
	return spans
}

func spanOf(raw *trace.Span) Span {
	span := Span{
		Name:       raw.GetName(),
		Kind:       strings.ToLower(strings.TrimPrefix(raw.GetKind().String(), "SPAN_KIND_")),
		TraceID:    hex.EncodeToString(raw.GetTraceId()),
		SpanID:     hex.EncodeToString(raw.GetSpanId()),
		ParentID:   hex.EncodeToString(raw.GetParentSpanId()),
		TraceState: raw.GetTraceState(),
		Status:     strings.ToLower(strings.TrimPrefix(raw.GetStatus().GetCode().String(), "STATUS_CODE_")),
		StatusText: raw.GetStatus().GetMessage(),
		Attributes: attributes(raw.GetAttributes()),
	}
	for _, l := range raw.GetLinks() {
		span.Links = append(span.Links, Link{
			TraceID: hex.EncodeToString(l.GetTraceId()), SpanID: hex.EncodeToString(l.GetSpanId()), Attributes: attributes(l.GetAttributes()),
		})
	}
	for _, e := range raw.GetEvents() {
		span.Events = append(span.Events, Event{Name: e.GetName(), Attributes: attributes(e.GetAttributes())})
	}
	return span
}

func attributes(pairs []*common.KeyValue) map[string]any {
	out := make(map[string]any, len(pairs))
	for _, p := range pairs {
		out[p.GetKey()] = value(p.GetValue())
	}
	return out
}

func value(v *common.AnyValue) any {
	switch v := v.GetValue().(type) {
	case *common.AnyValue_StringValue:
		return v.StringValue
	case *common.AnyValue_BoolValue:
		return v.BoolValue
	case *common.AnyValue_IntValue:
		return v.IntValue
	case *common.AnyValue_DoubleValue:
		return v.DoubleValue
	case *common.AnyValue_ArrayValue:
		values := make([]any, len(v.ArrayValue.GetValues()))
		for i, one := range v.ArrayValue.GetValues() {
			values[i] = value(one)
		}
		return values
	}
	return nil
}
