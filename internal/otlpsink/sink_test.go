package otlpsink_test

import (
	"bytes"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/rishi-platform/millrace/internal/otlpsink"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func pair(key string, v *common.AnyValue) []*common.KeyValue {
	return []*common.KeyValue{{Key: key, Value: v}}
}

func text(s string) *common.AnyValue {
	return &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: s}}
}

// send posts a request as an exporter does.
func send(t *testing.T, sink *otlpsink.Sink, spans ...*trace.Span) {
	t.Helper()
	body, err := proto.Marshal(&collector.ExportTraceServiceRequest{ResourceSpans: []*trace.ResourceSpans{{
		Resource:   &resource.Resource{Attributes: pair("service.name", text("orders"))},
		ScopeSpans: []*trace.ScopeSpans{{Scope: &common.InstrumentationScope{Name: "scope"}, SchemaUrl: "schema", Spans: spans}},
	}}})
	if err != nil {
		t.Error(err)
		return
	}
	response, err := http.Post(sink.URL()+"/v1/traces", "application/x-protobuf", bytes.NewReader(body))
	if err != nil {
		t.Error(err)
		return
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("got status %s, want 200", response.Status)
	}
}

func TestSink(t *testing.T) {
	t.Parallel()
	sink := otlpsink.Start(t)
	list := &common.AnyValue{Value: &common.AnyValue_ArrayValue{ArrayValue: &common.ArrayValue{Values: []*common.AnyValue{
		{Value: &common.AnyValue_IntValue{IntValue: 7}}, {Value: &common.AnyValue_BoolValue{BoolValue: true}}, {Value: &common.AnyValue_DoubleValue{DoubleValue: 0.5}},
	}}}}
	go func() {
		send(t, sink, &trace.Span{Name: "root"})
		send(t, sink, &trace.Span{
			Name: "child", Kind: trace.Span_SPAN_KIND_CONSUMER, TraceId: []byte{1}, SpanId: []byte{2}, ParentSpanId: []byte{3}, TraceState: "a=b",
			Status:     &trace.Status{Code: trace.Status_STATUS_CODE_ERROR, Message: "no"},
			Attributes: pair("list", list),
			Links:      []*trace.Span_Link{{TraceId: []byte{4}, SpanId: []byte{5}, Attributes: pair("kind", text("hop"))}},
			Events:     []*trace.Span_Event{{Name: "event", Attributes: pair("key", text("value"))}},
		})
	}()

	got := sink.Wait(t, func(s []otlpsink.Span) bool { return len(s) == 2 })
	common := otlpsink.Span{Resource: map[string]any{"service.name": "orders"}, Scope: "scope", SchemaURL: "schema"}
	root, child := common, common
	root.Name, root.Kind, root.Status, root.Attributes = "root", "unspecified", "unset", map[string]any{}
	child.Name, child.Kind, child.Status, child.StatusText = "child", "consumer", "error", "no"
	child.TraceID, child.SpanID, child.ParentID, child.TraceState = "01", "02", "03", "a=b"
	child.Attributes = map[string]any{"list": []any{int64(7), true, 0.5}}
	child.Links = []otlpsink.Link{{TraceID: "04", SpanID: "05", Attributes: map[string]any{"kind": "hop"}}}
	child.Events = []otlpsink.Event{{Name: "event", Attributes: map[string]any{"key": "value"}}}
	if diff := cmp.Diff([]otlpsink.Span{root, child}, got); diff != "" {
		t.Errorf("spans (-want +got):\n%s", diff)
	}
	if !bytes.Contains(sink.Raw(), []byte("orders")) {
		t.Error("the raw bytes lack what was sent")
	}
}
