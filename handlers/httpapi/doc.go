// Package httpapi is the HTTP side of a bus: publish, history, health. New returns an http.Handler for any server.
//
// JSON unless said otherwise. Errors are RFC 9457 problems with a stable type; names are matched exactly, and an unknown
// query parameter or body field is an error, so that a typo fails loudly. No problem repeats what was sent, except for names that
// are ours and those of ce- headers. Every answer carries X-Correlation-ID.
//
// Requests are read by net/http and decoded here: what this API promises about names, duplicates, trailing data and status codes is
// stricter than what a framework does. huma describes the operations from the same Go types, at /openapi.json and /docs (docs/adr/0002).
package httpapi
