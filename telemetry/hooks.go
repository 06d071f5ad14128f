package telemetry

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/rishi-platform/millrace/pipeline"
)

// scope is the name of the tracer and of the meter.
const scope = "github.com/rishi-platform/millrace/telemetry"

// Ours; all others are those of the semantic conventions.
const (
	keyCausationID    = attribute.Key("millrace.causation_id")
	keyPosition       = attribute.Key("millrace.stream.position")
	keyAttempt        = attribute.Key("millrace.delivery.attempt")
	keyAgeMS          = attribute.Key("millrace.delivery.age_ms")
	keyClaimed        = attribute.Key("millrace.delivery.claimed")
	keyLinkKind       = attribute.Key("millrace.link.kind")
	keyReason         = attribute.Key("millrace.loss.reason")
	metricInvalidName = "millrace.trace_context.invalid"
	metricLostName    = "millrace.events.lost"
)

// Config is what spans are made with. The zero value uses the providers of the process.
type Config struct {
	// TracerProvider makes the spans. Default: otel.GetTracerProvider().
	TracerProvider trace.TracerProvider
	// MeterProvider counts lost events and malformed trace contexts. Default: otel.GetMeterProvider().
	MeterProvider metric.MeterProvider
	// Mode says whether an attempt continues the trace of its publish. Default: Auto.
	Mode Mode
	// ClientID is messaging.client.id of publish spans: this process. Process spans carry the name of the consumer. Default:
	// none.
	ClientID string
	// ServerAddress and ServerPort say where Redis is. Default: none, as in memory.
	ServerAddress string
	ServerPort    int
}

// New returns hooks that make a span for each publish and for each attempt, and that count lost events by stream and reason. A failed attempt leaves its span context in
// Delivery.Previous, so that the retry made of that delivery links to it.
func New(cfg Config) pipeline.Hooks {
	if cfg.TracerProvider == nil {
		cfg.TracerProvider = otel.GetTracerProvider()
	}
	if cfg.MeterProvider == nil {
		cfg.MeterProvider = otel.GetMeterProvider()
	}
	meter := cfg.MeterProvider.Meter(scope, metric.WithSchemaURL(semconv.SchemaURL))
	invalid := counter(meter, metricInvalidName, "{context}", "Trace contexts in events that were ignored because they are malformed.")
	lost := counter(meter, metricLostName, "{event}", "Events that were accepted and then lost, also those that were restored.")
	_, silent := cfg.TracerProvider.(noop.TracerProvider)
	s := &spans{
		tracer:   cfg.TracerProvider.Tracer(scope, trace.WithSchemaURL(semconv.SchemaURL)),
		invalid:  invalid,
		mode:     cfg.Mode,
		silent:   silent,
		clientID: cfg.ClientID,
		common:   []attribute.KeyValue{semconv.MessagingSystemKey.String("redis")},
	}
	if cfg.ServerAddress != "" {
		s.common = append(s.common, semconv.ServerAddress(cfg.ServerAddress))
		if cfg.ServerPort != 0 {
			s.common = append(s.common, semconv.ServerPort(cfg.ServerPort))
		}
	}
	return pipeline.Hooks{Publish: s.publish, Process: s.process, Lost: func(l pipeline.Loss) {
		lost.Add(context.Background(), int64(l.Events), metric.WithAttributes(semconv.MessagingDestinationName(l.Stream), keyReason.String(l.Reason)))
	}}
}

func counter(meter metric.Meter, name, unit, description string) metric.Int64Counter {
	c, err := meter.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(description))
	if err != nil {
		otel.Handle(err) // telemetry never keeps a service from starting
		return metricnoop.Int64Counter{}
	}
	return c
}

// spans makes the spans of one bus.
type spans struct {
	tracer   trace.Tracer
	invalid  metric.Int64Counter
	mode     Mode
	silent   bool // nobody will ever see an attribute, so none is made; contexts are passed on all the same
	clientID string
	common   []attribute.KeyValue // of every span
}

// start returns the attributes that every span on a stream begins with, with room for more. They are all given when the
// span starts, since samplers see only those.
func (s *spans) start(stream, operation string, operationType attribute.KeyValue) []attribute.KeyValue {
	attrs := make([]attribute.KeyValue, 0, len(s.common)+13)
	attrs = append(attrs, s.common...)
	return append(attrs, operationType, semconv.MessagingOperationName(operation), semconv.MessagingDestinationName(stream))
}

// fail marks the span as failed, by the type of the error alone: its text may quote the payload.
func fail(span trace.Span, err error) {
	span.SetAttributes(errorType(err))
	span.SetStatus(codes.Error, "")
}

// errorType is the name that the error, or one that it wraps, gives itself, else its Go type. That of the errors
// of package context says nothing, so they get a name here.
func errorType(err error) attribute.KeyValue {
	var named interface{ ErrorType() string }
	switch {
	case errors.As(err, &named):
	case errors.Is(err, context.Canceled):
		return semconv.ErrorTypeKey.String("canceled")
	case errors.Is(err, context.DeadlineExceeded):
		return semconv.ErrorTypeKey.String("timeout")
	}
	return semconv.ErrorType(err)
}

// malformed counts a trace context that is ignored.
func (s *spans) malformed(ctx context.Context, stream string) {
	s.invalid.Add(ctx, 1, metric.WithAttributes(semconv.MessagingDestinationName(stream)))
}
