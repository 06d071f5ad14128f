// Package otlpsink gives a test an OTLP/HTTP endpoint that keeps the spans it gets. Only _test.go files import it.
//
//	sink := otlpsink.Start(t)
//	cmd.Env = append(cmd.Env, "OTEL_EXPORTER_OTLP_ENDPOINT="+sink.URL(), "OTEL_BSP_SCHEDULE_DELAY=100")
//	spans := sink.Wait(t, func(s []otlpsink.Span) bool { return len(s) == 2 })
package otlpsink

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

// patience is how long Wait waits; only a broken machine, or a broken test, meets it.
const patience = 20 * time.Second

// Sink is an OTLP/HTTP endpoint for traces in protobuf, plain or gzip. It also answers what it does not understand, and fails
// the test then.
type Sink struct {
	tb     testing.TB
	server *httptest.Server

	mu      sync.Mutex // guards what follows
	spans   []Span
	raw     bytes.Buffer
	changed chan struct{} // closed, and made anew, when spans arrive
}

// Start returns a sink that ends with the test.
func Start(tb testing.TB) *Sink {
	tb.Helper()
	s := &Sink{tb: tb, changed: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/traces", s.traces)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		tb.Errorf("otlp sink: unexpected %s %s", r.Method, r.URL.Path)
		w.WriteHeader(http.StatusNotFound)
	})
	s.server = httptest.NewServer(mux)
	tb.Cleanup(s.server.Close)
	return s
}

// URL is what OTEL_EXPORTER_OTLP_ENDPOINT takes.
func (s *Sink) URL() string { return s.server.URL }

// Spans returns what has arrived, in the order of arrival.
func (s *Sink) Spans() []Span {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.spans)
}

// Raw returns all bytes that have arrived, unpacked. Strings stand in them as they are, so it is where to look for what
// must not be exported.
func (s *Sink) Raw() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.raw.Bytes())
}

// Wait returns the spans as soon as done says that they are all there, and fails the test when that takes more than 20 s.
func (s *Sink) Wait(tb testing.TB, done func([]Span) bool) []Span {
	tb.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		s.mu.Lock()
		spans, changed := slices.Clone(s.spans), s.changed
		s.mu.Unlock()
		if done(spans) {
			return spans
		}
		select {
		case <-changed:
		case <-timeout.C:
			tb.Fatalf("otlp sink: the spans waited for did not come within %s; these did: %+v", patience, spans)
		}
	}
}

func (s *Sink) traces(w http.ResponseWriter, r *http.Request) {
	body, err := unpack(r)
	request := &collector.ExportTraceServiceRequest{}
	if err == nil {
		err = proto.Unmarshal(body, request)
	}
	if err != nil {
		s.tb.Errorf("otlp sink: %v", err)
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	s.spans = append(s.spans, spansOf(request)...)
	s.raw.Write(body)
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()

	w.Header().Set("Content-Type", contentType) // an empty body is an empty ExportTraceServiceResponse
}

const contentType = "application/x-protobuf"

func unpack(r *http.Request) ([]byte, error) {
	if got := r.Header.Get("Content-Type"); got != contentType {
		return nil, fmt.Errorf("content type %q, want %s", got, contentType)
	}
	if r.Header.Get("Content-Encoding") != "gzip" {
		return io.ReadAll(r.Body)
	}
	unzipped, err := gzip.NewReader(r.Body)
	if err != nil {
		return nil, fmt.Errorf("unzip: %w", err)
	}
	return io.ReadAll(unzipped)
}
