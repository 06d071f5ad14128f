package otelsdk

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// shutdownTimeout bounds Shutdown, so that a receiver which is away never holds up the end of a process.
const shutdownTimeout = 5 * time.Second

// Telemetry is what Setup started.
type Telemetry struct {
	// TracerProvider makes the spans of the process; one that does nothing where nothing is exported.
	TracerProvider trace.TracerProvider

	sdk      *sdktrace.TracerProvider // nil where nothing is exported
	exporter sdktrace.SpanExporter
}

// Setup starts what the OTEL_* variables ask for and makes it that of the process: tracer provider, propagator (W3C Trace
// Context) and error handler of package otel are replaced, so only a main program calls it. Service and version
// describe the process where the variables say nothing else. Errors name the variable that is wrong; a receiver that
// can't be reached is none, it is logged once when it goes away and once when it is back.
func Setup(ctx context.Context, service, version string) (*Telemetry, error) {
	exporter, err := newExporter(ctx)
	if err != nil {
		return nil, fmt.Errorf("set up telemetry: %w", err)
	}
	otel.SetTextMapPropagator(propagation.TraceContext{})
	t := &Telemetry{TracerProvider: noop.NewTracerProvider()}
	if exporter != nil {
		otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { slog.Warn("opentelemetry reports a problem", "err", err) }))
		t.exporter = &watched{SpanExporter: exporter}
		t.sdk = sdktrace.NewTracerProvider(sdktrace.WithBatcher(t.exporter), sdktrace.WithResource(describe(ctx, service, version)))
		t.TracerProvider = t.sdk
	}
	otel.SetTracerProvider(t.TracerProvider)
	return t, nil
}

// describe returns what every span says about this process. The variables come last, since they win.
func describe(ctx context.Context, service, version string) *resource.Resource {
	r, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithHost(),
		resource.WithService(), // an ID that tells this process from its siblings
		resource.WithAttributes(semconv.ServiceName(service), semconv.ServiceVersion(version)),
		resource.WithFromEnv(),
	)
	if err != nil {
		otel.Handle(fmt.Errorf("describe the process (OTEL_RESOURCE_ATTRIBUTES): %w", err)) // the rest is there
	}
	return r
}

// Shutdown exports the spans that have ended and stops. It takes at most 5 s; the error says that spans were given up.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	if t.sdk == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, shutdownTimeout)
	defer cancel()
	if err := t.sdk.Shutdown(ctx); err != nil {
		_ = t.exporter.Shutdown(ctx) // ends the export that is still trying; its error is the one we have
		return fmt.Errorf("export the last spans: %w", err)
	}
	return nil
}
