package telemetry_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/rishi-platform/millrace/pipeline"
	"github.com/rishi-platform/millrace/telemetry"
)

func TestProcess(t *testing.T) {
	t.Parallel()
	r := newRecorder(t)
	d := delivery()
	d.Attempt, d.Claimed = 2, true
	d.Event.Time = time.Now().Add(-time.Minute)

	ctx, done := r.hooks(telemetry.Auto).Process(t.Context(), d)
	done(nil)

	span := r.only(t)
	if span.Name != "process booking" || span.SpanKind != trace.SpanKindConsumer || span.Status.Code != codes.Unset {
		t.Errorf("got %s %s, status %v, want consumer process booking, status unset", span.SpanKind, span.Name, span.Status.Code)
	}
	got := attributes(span.Attributes)
	if age := got["millrace.delivery.age_ms"].(int64); age < 60_000 || age > 120_000 {
		t.Errorf("age: got %d ms, want a minute", age)
	}
	delete(got, "millrace.delivery.age_ms")
	want := map[string]any{
		"messaging.system": "redis", "messaging.operation.type": "process", "messaging.operation.name": "process",
		"messaging.destination.name": "booking", "messaging.consumer.group.name": "billing", "messaging.client.id": "worker-1",
		"messaging.message.id": "e-1", "messaging.message.conversation_id": "abc-1", "millrace.causation_id": "cause-1",
		"millrace.stream.position": "1764000000000-3", "millrace.delivery.attempt": int64(2), "millrace.delivery.claimed": true,
		"server.address": "redis.test", "server.port": int64(6379),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("attributes (-want +got):\n%s", diff)
	}
	if !span.Parent.IsRemote() {
		t.Error("the parent is not marked as remote")
	}
	if got := span.Links[0].SpanContext.TraceState().String(); got != creationState {
		t.Errorf("tracestate of the link: got %q, want %q", got, creationState)
	}
	wantHeaders := map[string]string{"traceparent": traceParent(span.SpanContext), "tracestate": creationState}
	if diff := cmp.Diff(wantHeaders, telemetry.Headers(ctx)); diff != "" {
		t.Errorf("headers for what the handler calls (-want +got):\n%s", diff)
	}
}

func TestProcessParentAndLinks(t *testing.T) {
	t.Parallel()
	const child, root = true, false
	creation := map[string]string{"creation": creationParent}
	all := map[string]string{"creation": creationParent, "hop": hopParent, "previous_attempt": previousParent}
	fresh := func(*pipeline.Delivery) {}
	again := func(origin string) func(*pipeline.Delivery) {
		return func(d *pipeline.Delivery) { d.Origin, d.Hop, d.Previous = origin, hopParent, previousParent }
	}
	aged := func(age time.Duration) func(*pipeline.Delivery) {
		return func(d *pipeline.Delivery) { d.Event.Time = time.Now().Add(-age) }
	}
	for name, c := range map[string]struct {
		mode      telemetry.Mode
		change    func(*pipeline.Delivery)
		wantChild bool
		wantLinks map[string]string
	}{
		"auto, fresh":                        {telemetry.Auto, fresh, child, creation},
		"auto, claimed":                      {telemetry.Auto, func(d *pipeline.Delivery) { d.Claimed, d.Attempt = true, 2 }, child, creation},
		"auto, drained":                      {telemetry.Auto, again(pipeline.OriginDrain), child, all},
		"auto, retry":                        {telemetry.Auto, again(pipeline.OriginRetry), root, all},
		"auto, replay":                       {telemetry.Auto, again(pipeline.OriginReplay), root, all},
		"auto, 4 minutes old":                {telemetry.Auto, aged(4 * time.Minute), child, creation},
		"auto, 6 minutes old":                {telemetry.Auto, aged(6 * time.Minute), root, creation},
		"auto, from a clock that runs ahead": {telemetry.Auto, aged(-time.Hour), child, creation},
		"continue, retry":                    {telemetry.Continue, again(pipeline.OriginRetry), child, all},
		"continue, old":                      {telemetry.Continue, aged(time.Hour), child, creation},
		"link, fresh":                        {telemetry.Link, fresh, root, creation},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRecorder(t)
			d := delivery()
			c.change(d)
			// What the consumer was started under is never the parent.
			ctx, ambient := r.provider.Tracer("test").Start(t.Context(), "start worker")
			defer ambient.End()

			_, done := r.hooks(c.mode).Process(ctx, d)
			done(nil)

			span := r.only(t)
			if c.wantChild && traceParent(span.Parent) != creationParent {
				t.Errorf("parent: got %q, want the creation %q", traceParent(span.Parent), creationParent)
			}
			if !c.wantChild && (span.Parent.IsValid() || span.SpanContext.TraceID().String() == creationTrace) {
				t.Errorf("got a child of %q in trace %s, want a root in a new trace", traceParent(span.Parent), span.SpanContext.TraceID())
			}
			if diff := cmp.Diff(c.wantLinks, links(span)); diff != "" {
				t.Errorf("links (-want +got):\n%s", diff)
			}
			if age := attributes(span.Attributes)["millrace.delivery.age_ms"].(int64); age < 0 {
				t.Errorf("age: got %d, want 0 or more", age)
			}
		})
	}
}

func TestProcessWithoutCreation(t *testing.T) {
	t.Parallel()
	r := newRecorder(t)
	d := delivery()
	d.Event.Header = map[string]string{}
	d.Event.CorrelationID, d.Event.CausationID = strings.Repeat("MARKER", 100), ""

	_, done := r.hooks(telemetry.Continue).Process(t.Context(), d)
	done(nil)

	span := r.only(t)
	if span.Parent.IsValid() || len(span.Links) != 0 {
		t.Errorf("got parent %v and links %v, want none", span.Parent, links(span))
	}
	assertAbsent(t, r.spans(), "MARKER")
	if got := r.invalid.Load(); got != 0 {
		t.Errorf("counted %d malformed contexts, want 0", got)
	}
}

func TestAttemptsLinkToTheOneBefore(t *testing.T) {
	t.Parallel()
	for _, mode := range []telemetry.Mode{telemetry.Auto, telemetry.Continue, telemetry.Link} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			r := newRecorder(t)
			hooks := r.hooks(mode)
			d := delivery()
			for _, err := range []error{errors.New("MARKER"), typed{}, nil} {
				_, done := hooks.Process(t.Context(), d)
				done(err)
				d.Attempt++
				d.Origin = pipeline.OriginRetry
			}

			spans := r.spans()
			if len(spans) != 3 {
				t.Fatalf("got %v, want three attempts", names(spans))
			}
			want := []struct {
				code      codes.Code
				errorType any
				previous  string
			}{
				{codes.Error, "*errors.errorString", ""},
				{codes.Error, "bad_booking", traceParent(spans[0].SpanContext)},
				{codes.Unset, nil, traceParent(spans[1].SpanContext)},
			}
			for i, span := range spans {
				attrs := attributes(span.Attributes)
				if got := attrs["millrace.delivery.attempt"]; got != int64(i+1) {
					t.Errorf("attempt %d: got number %v", i+1, got)
				}
				if span.Status.Code != want[i].code || attrs["error.type"] != want[i].errorType {
					t.Errorf("attempt %d: got %v %v, want %v %v", i+1, span.Status.Code, attrs["error.type"], want[i].code, want[i].errorType)
				}
				if got := links(span)["previous_attempt"]; got != want[i].previous {
					t.Errorf("attempt %d: got link to %q, want %q", i+1, got, want[i].previous)
				}
				if span.Parent.IsValid() && traceParent(span.Parent) != creationParent {
					t.Errorf("attempt %d is a child of %s, want a sibling of the others", i+1, traceParent(span.Parent))
				}
			}
			assertAbsent(t, spans, "MARKER")
		})
	}
}

func TestMalformedContextsAreIgnoredAndCounted(t *testing.T) {
	t.Parallel()
	for name, parent := range map[string]string{
		"garbage":        `"><script>`,
		"zero trace":     "00-00000000000000000000000000000000-" + creationSpan + "-01",
		"zero span":      "00-" + creationTrace + "-0000000000000000-01",
		"upper case":     strings.ToUpper(creationParent),
		"cut short":      creationParent[:len(creationParent)-1],
		"too long":       creationParent + "-00",
		"version ff":     "ff" + creationParent[2:],
		"a line feed":    creationParent + "\n",
		"another format": creationTrace + "-" + creationSpan + "-1",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRecorder(t)
			hooks := r.hooks(telemetry.Auto)
			e := booking("e-1", "traceparent", parent, "tracestate", "no state")
			_, done := hooks.Publish(t.Context(), publishInfo(e))
			done(stored)

			span := r.only(t)
			if span.SpanKind != trace.SpanKindProducer || len(span.Links) != 0 {
				t.Errorf("publish: got %s with links %v, want a producer without", span.SpanKind, links(span))
			}
			if diff := cmp.Diff(map[string]string{"traceparent": traceParent(span.SpanContext)}, e.Header); diff != "" {
				t.Errorf("header (-want +got):\n%s", diff)
			}

			r.exporter.Reset()
			d := delivery()
			d.Event.Header["traceparent"], d.Hop, d.Previous = parent, parent, parent
			_, processed := hooks.Process(t.Context(), d)
			processed(nil)
			if span := r.only(t); span.Parent.IsValid() || len(span.Links) != 0 {
				t.Errorf("process: got parent %v and links %v, want none", span.Parent, links(span))
			}
			if got := r.invalid.Load(); got != 4 {
				t.Errorf("counted %d malformed contexts, want 4: once published, three in the delivery", got)
			}
		})
	}
}

func TestMalformedTraceStateCostsOnlyItself(t *testing.T) {
	t.Parallel()
	r := newRecorder(t)
	d := delivery()
	d.Event.Header["tracestate"] = "no state"
	_, done := r.hooks(telemetry.Auto).Process(t.Context(), d)
	done(nil)

	span := r.only(t)
	if traceParent(span.Parent) != creationParent || span.SpanContext.TraceState().Len() != 0 {
		t.Errorf("got parent %s with state %q, want the creation without", traceParent(span.Parent), span.SpanContext.TraceState())
	}
	if got := r.invalid.Load(); got != 1 {
		t.Errorf("counted %d malformed contexts, want 1", got)
	}
}

func TestModeText(t *testing.T) {
	t.Parallel()
	for _, mode := range []telemetry.Mode{telemetry.Auto, telemetry.Continue, telemetry.Link} {
		text, err := mode.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var got telemetry.Mode
		if err := got.UnmarshalText(text); err != nil || got != mode {
			t.Errorf("%s: got %v, %v", text, got, err)
		}
	}
	mode := telemetry.Link
	if err := mode.UnmarshalText([]byte("AUTO")); err == nil || mode != telemetry.Link {
		t.Errorf("an unknown mode: got %v, %v, want an error and no change", mode, err)
	}
}
