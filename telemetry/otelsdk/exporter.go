package otelsdk

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync/atomic"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// newExporter returns the exporter that the variables ask for, nil where they ask for none. The exporters read their other
// variables (headers, certificates, compression, timeout) themselves.
func newExporter(ctx context.Context) (sdktrace.SpanExporter, error) {
	endpointName, endpoint := lookup("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
	_, wanted := lookup("OTEL_TRACES_EXPORTER")
	_, disabled := lookup("OTEL_SDK_DISABLED")
	switch {
	case strings.EqualFold(disabled, "true"), wanted == "none", wanted == "" && endpoint == "":
		return nil, nil
	case wanted != "" && wanted != "otlp":
		return nil, fmt.Errorf("OTEL_TRACES_EXPORTER %q: want otlp or none", wanted)
	}

	switch name, protocol := lookup("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"); protocol {
	case "", "http/protobuf", "http/json":
		if err := checkURL(endpoint); err != nil {
			return nil, fmt.Errorf("%s %w", endpointName, err)
		}
		return otlptracehttp.New(ctx)
	case "grpc":
		return otlptracegrpc.New(ctx)
	default:
		return nil, fmt.Errorf("%s %q: want http/protobuf, http/json or grpc", name, protocol)
	}
}

// lookup returns the first of the variables that is not empty: an empty one counts as unset, as the specification has it.
func lookup(names ...string) (name, value string) {
	for _, name := range names {
		if value := strings.TrimSpace(os.Getenv(name)); value != "" {
			return name, value
		}
	}
	return "", ""
}

// checkURL refuses what the exporter would take for a host without a name, "localhost:4318" above all, and then fail at
// for ever. Empty is the exporter's default.
func checkURL(endpoint string) error {
	if endpoint == "" {
		return nil
	}
	if u, err := url.Parse(endpoint); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("%q: want a URL such as http://localhost:4318", endpoint)
	}
	return nil
}

// watched is an exporter that says when exporting begins to fail and when it works again, once each, instead of once per
// batch. It hides the errors from the SDK, which would report every one of them.
type watched struct {
	sdktrace.SpanExporter
	failing atomic.Bool
}

func (w *watched) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := w.SpanExporter.ExportSpans(ctx, spans)
	if failing := err != nil; w.failing.Swap(failing) != failing {
		if failing {
			slog.WarnContext(ctx, "spans can't be exported and are lost until this ends", "err", err)
		} else {
			slog.InfoContext(ctx, "spans are exported again")
		}
	}
	return nil
}
