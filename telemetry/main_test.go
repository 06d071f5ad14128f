package telemetry_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"github.com/rishi-platform/millrace/pipeline"
	"github.com/rishi-platform/millrace/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A creation context as it may come from outside: of a later version, with a vendor's state.
const (
	creationTrace  = "4bf92f3577b34da6a3ce929d0e0e4736"
	creationSpan   = "00f067aa0ba902b7"
	creationParent = "00-" + creationTrace + "-" + creationSpan + "-01"
	creationState  = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"
	hopParent      = "00-1111111111111111aaaaaaaaaaaaaaaa-1111111111111111-01"
	previousParent = "00-2222222222222222aaaaaaaaaaaaaaaa-2222222222222222-01"
)

// recorder keeps the spans and the counts of one test: of malformed contexts and of lost events.
type recorder struct {
	metricnoop.MeterProvider
	provider *sdktrace.TracerProvider
	exporter *tracetest.InMemoryExporter
	invalid  atomic.Int64
	lost     atomic.Int64
}

func newRecorder(tb testing.TB, options ...sdktrace.TracerProviderOption) *recorder {
	tb.Helper()
	r := &recorder{exporter: tracetest.NewInMemoryExporter()}
	r.provider = sdktrace.NewTracerProvider(append(options, sdktrace.WithSyncer(r.exporter))...)
	tb.Cleanup(func() { _ = r.provider.Shutdown(context.Background()) })
	return r
}

func (r *recorder) hooks(mode telemetry.Mode) pipeline.Hooks {
	return telemetry.New(telemetry.Config{
		TracerProvider: r.provider, MeterProvider: r, Mode: mode, ClientID: "api-1", ServerAddress: "redis.test", ServerPort: 6379,
	})
}

// Meter makes the recorder the provider of the instruments there are.
func (r *recorder) Meter(string, ...metric.MeterOption) metric.Meter { return meter{recorder: r} }

type meter struct {
	metricnoop.Meter
	recorder *recorder
}

func (m meter) Int64Counter(name string, _ ...metric.Int64CounterOption) (metric.Int64Counter, error) {
	switch name {
	case "millrace.trace_context.invalid":
		return counter{of: &m.recorder.invalid}, nil
	case "millrace.events.lost":
		return counter{of: &m.recorder.lost}, nil
	}
	panic("unexpected counter " + name)
}

type counter struct {
	metricnoop.Int64Counter
	of *atomic.Int64
}

func (c counter) Add(_ context.Context, n int64, _ ...metric.AddOption) { c.of.Add(n) }

// spans returns those that have ended, in the order of their ends.
func (r *recorder) spans() tracetest.SpanStubs { return r.exporter.GetSpans() }

// only returns the one span that has ended.
func (r *recorder) only(tb testing.TB) tracetest.SpanStub {
	tb.Helper()
	spans := r.spans()
	if len(spans) != 1 {
		tb.Fatalf("got %d spans, want 1: %v", len(spans), names(spans))
	}
	return spans[0]
}

func names(spans tracetest.SpanStubs) []string {
	out := make([]string, len(spans))
	for i, s := range spans {
		out[i] = s.SpanKind.String() + " " + s.Name
	}
	return out
}

func attributes(kvs []attribute.KeyValue) map[string]any {
	out := map[string]any{}
	for _, kv := range kvs {
		out[string(kv.Key)] = kv.Value.AsInterface()
	}
	return out
}

// links returns the traceparents that a span links to, by their kind.
func links(s tracetest.SpanStub) map[string]string {
	out := map[string]string{}
	for _, l := range s.Links {
		out[attributes(l.Attributes)["millrace.link.kind"].(string)] = traceParent(l.SpanContext)
	}
	return out
}

func traceParent(sc trace.SpanContext) string {
	return telemetry.Headers(trace.ContextWithSpanContext(context.Background(), sc))["traceparent"]
}

// remote returns a ctx that carries a context from outside.
func remote(traceID, spanID string, flags trace.TraceFlags) context.Context {
	t, err := trace.TraceIDFromHex(traceID)
	s, err2 := trace.SpanIDFromHex(spanID)
	if err != nil || err2 != nil {
		panic("bad test data: " + traceID + spanID)
	}
	return trace.ContextWithRemoteSpanContext(context.Background(), trace.NewSpanContext(trace.SpanContextConfig{TraceID: t, SpanID: s, TraceFlags: flags}))
}

func booking(id string, header ...string) *pipeline.Event {
	e := &pipeline.Event{
		ID: id, Type: "booking.created", Source: "api", Time: time.Now(), CorrelationID: "abc-1", CausationID: "cause-1",
		Header: map[string]string{}, Data: []byte(`{"id":1}`),
	}
	for i := 0; i+1 < len(header); i += 2 {
		e.Header[header[i]] = header[i+1]
	}
	return e
}

func publishInfo(events ...*pipeline.Event) pipeline.PublishInfo {
	return pipeline.PublishInfo{Stream: "booking", Events: events}
}

// delivery returns the first attempt on an event with a creation context.
func delivery() *pipeline.Delivery {
	return &pipeline.Delivery{
		Event:  *booking("e-1", "traceparent", creationParent, "tracestate", creationState),
		Stream: "booking", Position: "1764000000000-3", Group: "billing", Consumer: "worker-1", Attempt: 1,
	}
}

// assertAbsent fails when a span shows any of the words anywhere.
func assertAbsent(tb testing.TB, spans tracetest.SpanStubs, words ...string) {
	tb.Helper()
	for _, s := range spans {
		var text strings.Builder
		text.WriteString(s.Name + " " + s.Status.Description)
		all := s.Attributes
		for _, l := range s.Links {
			all = append(all, l.Attributes...)
		}
		for _, e := range s.Events {
			text.WriteString(" " + e.Name)
			all = append(all, e.Attributes...)
		}
		for _, kv := range all {
			text.WriteString(" " + string(kv.Key) + "=" + kv.Value.String())
		}
		for _, word := range words {
			if strings.Contains(text.String(), word) {
				tb.Errorf("span %s shows %q: %s", s.Name, word, text.String())
			}
		}
	}
}
