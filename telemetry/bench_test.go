package telemetry_test

import (
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/rishi-platform/millrace/pipeline"
	"github.com/rishi-platform/millrace/telemetry"
)

// BenchmarkSpanPair is what telemetry costs an event that is published and handled once.
func BenchmarkSpanPair(b *testing.B) {
	for name, provider := range map[string]trace.TracerProvider{
		"sampled":     sdktrace.NewTracerProvider(),
		"unsampled":   sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample())),
		"no provider": noop.NewTracerProvider(),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			hooks := telemetry.New(telemetry.Config{TracerProvider: provider, ClientID: "api-1", ServerAddress: "redis.test", ServerPort: 6379})
			for b.Loop() {
				e := booking("e-1")
				_, published := hooks.Publish(b.Context(), publishInfo(e))
				published(stored)
				d := &pipeline.Delivery{Event: *e, Stream: "booking", Position: "1764000000000-3", Group: "billing", Consumer: "worker-1", Attempt: 1}
				_, processed := hooks.Process(b.Context(), d)
				processed(nil)
			}
		})
	}
}
