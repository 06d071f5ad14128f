// Package otelsdk sets up the OpenTelemetry SDK for a process: what it exports and how is read from the standard OTEL_*
// variables. Only the binary imports it. A service that uses Millrace as a library has a set-up of its own and needs package
// telemetry alone.
//
// Nothing is exported unless somebody asks for it: without OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT
// and OTEL_TRACES_EXPORTER=otlp there is no exporter, no background work and no log line; trace contexts that come in are still passed on.
//
//	OTEL_EXPORTER_OTLP_ENDPOINT, …_TRACES_ENDPOINT   where to; the rest of OTEL_EXPORTER_OTLP_… as the exporters read it
//	OTEL_EXPORTER_OTLP_PROTOCOL, …_TRACES_PROTOCOL   http/protobuf (default), http/json or grpc
//	OTEL_SDK_DISABLED=true, OTEL_TRACES_EXPORTER=none   off
//	OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES      who we are
//	OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG     default parentbased_always_on
//	OTEL_BSP_…                                       the queue between the spans and the exporter
//
// A receiver that is away costs nothing but its spans: they wait in a bounded queue, and what does not fit is dropped.
package otelsdk
