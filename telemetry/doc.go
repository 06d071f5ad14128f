// Package telemetry makes OpenTelemetry spans out of the life of an event: one for each publish and one for each attempt
// of each group, joined by parents and links, all of them with the correlation ID as messaging.message.conversation_id. It
// needs the OpenTelemetry API only; without an SDK it passes trace contexts on and does little else.
//
//	bus, err := pipeline.Open(ctx, pipeline.Config{Hooks: telemetry.New(telemetry.Config{})})
//
// # The contexts in a message
//
// The creation context stands in the headers traceparent and tracestate of the event. The first publish writes it,
// and nobody ever changes it: whoever publishes the event again finds it there and links to it. The hop context
// (Delivery.Hop) is that of whoever sent the message again, the previous attempt (Delivery.Previous) that of the
// attempt that failed before this one. All three are W3C Trace Context, whatever propagator the process uses elsewhere:
// they are part of the wire format. A malformed one is as good as none, and counted in
// millrace.trace_context.invalid.
//
// # The spans
//
//	publish booking   PRODUCER   one event that this publish creates
//	publish booking   CLIENT     one event that has a creation context already (linked), or several events
//	process booking   CONSUMER   one attempt of one group; child of the creation or a root of its own, as Mode says
//
// A process span links to the creation, to the hop and to the previous attempt; every link says which it is in
// millrace.link.kind. Polls and subscriptions make no spans, so a process without traffic makes none.
//
// # What stays out
//
// No payload, no header and no error text: an error may quote the payload. A span that failed has the status Error
// and an error.type, the ErrorType() of the error or its Go type; the text is in the log.
package telemetry
