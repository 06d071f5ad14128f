package telemetry_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/rishi-platform/millrace/pipeline"
	"github.com/rishi-platform/millrace/telemetry"
)

var stored = []pipeline.Outcome{{ID: "e-1", Durability: pipeline.Stored, Position: "1764000000000-0"}}

func TestPublishOne(t *testing.T) {
	t.Parallel()
	r := newRecorder(t)
	e := booking("e-1", "tenant", "acme", "tracestate", "stale=1")

	ctx, done := r.hooks(telemetry.Auto).Publish(remote(creationTrace, creationSpan, trace.FlagsSampled), publishInfo(e))
	done(stored)

	span := r.only(t)
	if span.Name != "publish booking" || span.SpanKind != trace.SpanKindProducer || span.Status.Code != codes.Unset {
		t.Errorf("got %s %s, status %v, want producer publish booking, status unset", span.SpanKind, span.Name, span.Status.Code)
	}
	if got, want := span.InstrumentationScope.SchemaURL, "https://opentelemetry.io/schemas/1.43.0"; got != want {
		t.Errorf("schema URL: got %q, want %q", got, want)
	}
	want := map[string]any{
		"messaging.system": "redis", "messaging.operation.type": "send", "messaging.operation.name": "publish",
		"messaging.destination.name": "booking", "messaging.message.id": "e-1", "messaging.message.conversation_id": "abc-1",
		"millrace.causation_id": "cause-1", "millrace.stream.position": "1764000000000-0",
		"messaging.client.id": "api-1", "server.address": "redis.test", "server.port": int64(6379),
	}
	if diff := cmp.Diff(want, attributes(span.Attributes)); diff != "" {
		t.Errorf("attributes (-want +got):\n%s", diff)
	}
	if got := traceParent(span.Parent); got != creationParent {
		t.Errorf("parent: got %s, want the ambient %s", got, creationParent)
	}
	if len(span.Links) != 0 {
		t.Errorf("links: got %v, want none", links(span))
	}
	wantHeader := map[string]string{"tenant": "acme", "traceparent": traceParent(span.SpanContext)}
	if diff := cmp.Diff(wantHeader, e.Header); diff != "" {
		t.Errorf("header (-want +got):\n%s", diff)
	}
	if got := trace.SpanContextFromContext(ctx); !got.Equal(span.SpanContext) {
		t.Errorf("ctx carries %v, want the span", got)
	}
}

func TestPublishPassesTraceStateOn(t *testing.T) {
	t.Parallel()
	r := newRecorder(t)
	state, err := trace.ParseTraceState(creationState)
	if err != nil {
		t.Fatal(err)
	}
	ctx := remote(creationTrace, creationSpan, trace.FlagsSampled)
	ctx = trace.ContextWithRemoteSpanContext(ctx, trace.SpanContextFromContext(ctx).WithTraceState(state))
	e := booking("e-1")

	_, done := r.hooks(telemetry.Auto).Publish(ctx, publishInfo(e))
	done(stored)

	if got := e.Header["tracestate"]; got != creationState {
		t.Errorf("tracestate: got %q, want %q", got, creationState)
	}
}

func TestPublishOfACreatedEvent(t *testing.T) {
	t.Parallel()
	for name, parent := range map[string]string{
		"ours":            creationParent,
		"of version 1":    "01-" + creationTrace + "-" + creationSpan + "-01-what-comes-after",
		"of unknown flag": "01-" + creationTrace + "-" + creationSpan + "-ff",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRecorder(t)
			e := booking("e-1", "traceparent", parent, "tracestate", creationState)

			_, done := r.hooks(telemetry.Auto).Publish(t.Context(), publishInfo(e))
			done(stored)

			span := r.only(t)
			if span.Name != "publish booking" || span.SpanKind != trace.SpanKindClient {
				t.Errorf("got %s %s, want client publish booking", span.SpanKind, span.Name)
			}
			if len(span.Links) != 1 || span.Links[0].SpanContext.TraceID().String() != creationTrace || links(span)["creation"] == "" {
				t.Errorf("links: got %v, want the creation", links(span))
			}
			if got := span.Links[0].SpanContext.TraceState().String(); got != creationState {
				t.Errorf("tracestate of the link: got %q, want %q", got, creationState)
			}
			if diff := cmp.Diff(map[string]string{"traceparent": parent, "tracestate": creationState}, e.Header); diff != "" {
				t.Errorf("header was changed (-want +got):\n%s", diff)
			}
			if got := r.invalid.Load(); got != 0 {
				t.Errorf("counted %d malformed contexts, want 0", got)
			}
		})
	}
}

func TestPublishBatch(t *testing.T) {
	t.Parallel()
	r := newRecorder(t)
	fresh, created, third := booking("e-1"), booking("e-2", "traceparent", creationParent), booking("e-3")
	third.CausationID = "cause-2"

	_, done := r.hooks(telemetry.Auto).Publish(t.Context(), publishInfo(fresh, created, third))
	done([]pipeline.Outcome{{ID: "e-1", Position: "1-0"}, {ID: "e-2", Position: "1-1"}, {ID: "e-3", Position: "1-2"}})

	span := r.only(t)
	if span.Name != "publish booking" || span.SpanKind != trace.SpanKindClient {
		t.Errorf("got %s %s, want client publish booking", span.SpanKind, span.Name)
	}
	want := map[string]any{
		"messaging.system": "redis", "messaging.operation.type": "send", "messaging.operation.name": "publish",
		"messaging.destination.name": "booking", "messaging.batch.message_count": int64(3), "messaging.message.conversation_id": "abc-1",
		"messaging.client.id": "api-1", "server.address": "redis.test", "server.port": int64(6379),
	}
	if diff := cmp.Diff(want, attributes(span.Attributes)); diff != "" {
		t.Errorf("attributes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"creation": creationParent}, links(span)); diff != "" {
		t.Errorf("links (-want +got):\n%s", diff)
	}
	own := traceParent(span.SpanContext)
	got := []string{fresh.Header["traceparent"], created.Header["traceparent"], third.Header["traceparent"]}
	if diff := cmp.Diff([]string{own, creationParent, own}, got); diff != "" {
		t.Errorf("creation contexts (-want +got):\n%s", diff)
	}
}

func TestPublishBatchOfSeveralCorrelations(t *testing.T) {
	t.Parallel()
	r := newRecorder(t)
	other := booking("e-2")
	other.CorrelationID = "abc-2"

	_, done := r.hooks(telemetry.Auto).Publish(t.Context(), publishInfo(booking("e-1"), other))
	done(make([]pipeline.Outcome, 2))

	if got, ok := attributes(r.only(t).Attributes)["messaging.message.conversation_id"]; ok {
		t.Errorf("conversation ID: got %v, want none, for neither stands for the batch", got)
	}
}

// typed is an error that names its type itself, and quotes the payload.
type typed struct{}

func (typed) Error() string     { return "can't handle MARKER" }
func (typed) ErrorType() string { return "bad_booking" }

func TestPublishFails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"our error":        {&pipeline.RedisError{Op: "append", Kind: pipeline.ErrUnavailable, Err: errors.New("MARKER")}, "unavailable"},
		"wrapped":          {fmt.Errorf("publish MARKER: %w", typed{}), "bad_booking"},
		"canceled":         {fmt.Errorf("MARKER: %w", context.Canceled), "canceled"},
		"timeout":          {fmt.Errorf("MARKER: %w", context.DeadlineExceeded), "timeout"},
		"away by timeout":  {&pipeline.RedisError{Kind: pipeline.ErrUnknown, Err: context.DeadlineExceeded}, "outcome_unknown"},
		"without own type": {errors.New("MARKER"), "*errors.errorString"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRecorder(t)
			_, done := r.hooks(telemetry.Auto).Publish(t.Context(), publishInfo(booking("e-1"), booking("e-2")))
			done([]pipeline.Outcome{{ID: "e-1", Durability: pipeline.Stored}, {ID: "e-2", Err: c.err}})

			span := r.only(t)
			if got := attributes(span.Attributes)["error.type"]; got != c.want {
				t.Errorf("error.type: got %v, want %s", got, c.want)
			}
			if span.Status.Code != codes.Error {
				t.Errorf("status: got %v, want Error", span.Status.Code)
			}
			assertAbsent(t, r.spans(), "MARKER")
		})
	}
}

func TestUnsampledUpstream(t *testing.T) {
	t.Parallel()
	r := newRecorder(t, sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.AlwaysSample())))
	hooks := r.hooks(telemetry.Auto)
	e := booking("e-1")

	_, done := hooks.Publish(remote(creationTrace, creationSpan, 0), publishInfo(e))
	done(stored)
	parent := e.Header["traceparent"]
	if !strings.HasPrefix(parent, "00-"+creationTrace+"-") || !strings.HasSuffix(parent, "-00") {
		t.Errorf("traceparent: got %q, want the trace of the caller, unsampled", parent)
	}

	d := delivery()
	d.Event = *e
	ctx, processed := hooks.Process(t.Context(), d)
	processed(nil)
	if got := telemetry.Headers(ctx)["traceparent"]; !strings.HasPrefix(got, "00-"+creationTrace+"-") || !strings.HasSuffix(got, "-00") {
		t.Errorf("traceparent in the handler: got %q, want the trace of the caller, unsampled", got)
	}
	if spans := r.spans(); len(spans) != 0 {
		t.Errorf("exported %v, want nothing", names(spans))
	}
}

func TestWithoutSDK(t *testing.T) {
	t.Parallel()
	hooks := telemetry.New(telemetry.Config{TracerProvider: noop.NewTracerProvider()})
	e := booking("e-1")
	_, done := hooks.Publish(remote(creationTrace, creationSpan, trace.FlagsSampled), publishInfo(e))
	done(stored)
	if got := e.Header["traceparent"]; got != creationParent {
		t.Errorf("traceparent: got %q, want that of the caller, %s", got, creationParent)
	}

	d := delivery()
	d.Previous = previousParent
	ctx, processed := hooks.Process(t.Context(), d)
	processed(errors.New("no"))
	if got := telemetry.Headers(ctx)["traceparent"]; got != creationParent {
		t.Errorf("traceparent in the handler: got %q, want %s", got, creationParent)
	}
	if d.Previous != "" {
		t.Errorf("previous attempt: got %q, want none, since this attempt has no span", d.Previous)
	}

	e = booking("e-2")
	_, done = hooks.Publish(t.Context(), publishInfo(e))
	done(stored)
	if len(e.Header) != 0 {
		t.Errorf("header without any trace: got %v, want none", e.Header)
	}
}
