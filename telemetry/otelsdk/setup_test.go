package otelsdk_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/rishi-platform/millrace/internal/otlpsink"
	"github.com/rishi-platform/millrace/pipeline"
	"github.com/rishi-platform/millrace/telemetry"
	"github.com/rishi-platform/millrace/telemetry/otelsdk"
)

// The tests set variables and the default logger of the process, so none of them is parallel.

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// setEnv sets the variables, given as NAME=value, and clears those that the machine may have.
func setEnv(t *testing.T, vars ...string) {
	t.Helper()
	for _, name := range []string{
		"OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_TRACES_SAMPLER",
		"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
	} {
		t.Setenv(name, "")
	}
	for _, v := range vars {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
}

func setup(t *testing.T) *otelsdk.Telemetry {
	t.Helper()
	tel, err := otelsdk.Setup(t.Context(), "millrace", "1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	return tel
}

func shutdown(t *testing.T, tel *otelsdk.Telemetry) {
	t.Helper()
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// captureLogs returns what the default logger writes until the end of the test.
func captureLogs(t *testing.T) *logs {
	t.Helper()
	l, before := &logs{written: make(chan struct{}, 1)}, slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(l, nil)))
	t.Cleanup(func() { slog.SetDefault(before) })
	return l
}

type logs struct {
	mu      sync.Mutex // guards text
	text    bytes.Buffer
	written chan struct{} // has a value once anything was written
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case l.written <- struct{}{}:
	default:
	}
	return l.text.Write(p)
}

func (l *logs) lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(strings.TrimSuffix(l.text.String(), "\n"), "\n")
}

func end(tel *otelsdk.Telemetry, name string) {
	_, span := tel.TracerProvider.Tracer("test").Start(context.Background(), name)
	span.End()
}

func flush(t *testing.T, tel *otelsdk.Telemetry) {
	t.Helper()
	if err := tel.TracerProvider.(*sdktrace.TracerProvider).ForceFlush(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestPublishAndProcessArrive(t *testing.T) {
	for _, protocol := range []string{"", "http/protobuf"} {
		t.Run("protocol "+protocol, func(t *testing.T) {
			sink := otlpsink.Start(t)
			setEnv(t, "OTEL_EXPORTER_OTLP_ENDPOINT="+sink.URL(), "OTEL_EXPORTER_OTLP_PROTOCOL="+protocol, "OTEL_EXPORTER_OTLP_COMPRESSION=gzip")
			tel := setup(t)
			if otel.GetTracerProvider() != tel.TracerProvider {
				t.Error("the provider is not that of the process")
			}
			hooks := telemetry.New(telemetry.Config{}) // the provider of the process

			event := &pipeline.Event{ID: "e-1", Type: "booking.created", Time: time.Now(), CorrelationID: "abc-1", Header: map[string]string{}, Data: []byte("MARKER")}
			_, published := hooks.Publish(t.Context(), pipeline.PublishInfo{Stream: "booking", Events: []*pipeline.Event{event}})
			published([]pipeline.Outcome{{ID: "e-1", Position: "1-0"}})
			_, processed := hooks.Process(t.Context(), &pipeline.Delivery{Event: *event, Stream: "booking", Group: "billing", Consumer: "c-1", Attempt: 1})
			processed(nil)
			shutdown(t, tel)

			spans := sink.Spans()
			if len(spans) != 2 {
				t.Fatalf("got %+v, want two spans", spans)
			}
			publish, process := spans[0], spans[1]
			type shape struct{ Name, Kind, Status, Correlation, Trace, Parent string }
			want := []shape{
				{"publish booking", "producer", "unset", "abc-1", publish.TraceID, ""},
				{"process booking", "consumer", "unset", "abc-1", publish.TraceID, publish.SpanID},
			}
			var got []shape
			for _, s := range spans {
				got = append(got, shape{s.Name, s.Kind, s.Status, s.Attributes["messaging.message.conversation_id"].(string), s.TraceID, s.ParentID})
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("spans (-want +got):\n%s", diff)
			}
			wantLinks := []otlpsink.Link{{TraceID: publish.TraceID, SpanID: publish.SpanID, Attributes: map[string]any{"millrace.link.kind": "creation"}}}
			if diff := cmp.Diff(wantLinks, process.Links); diff != "" {
				t.Errorf("links (-want +got):\n%s", diff)
			}
			if got, want := publish.SchemaURL, "https://opentelemetry.io/schemas/1.43.0"; got != want {
				t.Errorf("schema URL: got %q, want %q", got, want)
			}
			if bytes.Contains(sink.Raw(), []byte("MARKER")) {
				t.Error("the payload was exported")
			}
		})
	}
}

func TestGRPC(t *testing.T) {
	receiver := &traceService{names: make(chan string, 1)}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, receiver)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	setEnv(t, "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+listener.Addr().String(), "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=grpc")

	tel := setup(t)
	end(tel, "by grpc")
	shutdown(t, tel)

	select {
	case got := <-receiver.names:
		if got != "by grpc" {
			t.Errorf("got span %q, want %q", got, "by grpc")
		}
	default:
		t.Error("nothing arrived")
	}
}

type traceService struct {
	collector.UnimplementedTraceServiceServer
	names chan string
}

func (s *traceService) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	s.names <- r.GetResourceSpans()[0].GetScopeSpans()[0].GetSpans()[0].GetName()
	return &collector.ExportTraceServiceResponse{}, nil
}

func TestResource(t *testing.T) {
	for name, c := range map[string]struct {
		env  []string
		want string
	}{
		"what the program says":        {nil, "millrace"},
		"OTEL_RESOURCE_ATTRIBUTES":     {[]string{"OTEL_RESOURCE_ATTRIBUTES=service.name=orders,team=a"}, "orders"},
		"OTEL_SERVICE_NAME beats that": {[]string{"OTEL_RESOURCE_ATTRIBUTES=service.name=orders,team=a", "OTEL_SERVICE_NAME=bookings"}, "bookings"},
	} {
		t.Run(name, func(t *testing.T) {
			sink := otlpsink.Start(t)
			setEnv(t, append(c.env, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="+sink.URL()+"/v1/traces")...)
			tel := setup(t)
			end(tel, "x")
			shutdown(t, tel)

			got := sink.Spans()[0].Resource
			if got["service.name"] != c.want || got["service.version"] != "1.2.3" {
				t.Errorf("got %v %v, want %s 1.2.3", got["service.name"], got["service.version"], c.want)
			}
			for _, key := range []string{"service.instance.id", "host.name", "telemetry.sdk.language"} {
				if got[key] == nil || got[key] == "" {
					t.Errorf("%s is missing", key)
				}
			}
			if team := got["team"]; (team == "a") != (c.env != nil) {
				t.Errorf("team: got %v", team)
			}
		})
	}
}

func TestSampler(t *testing.T) {
	sink := otlpsink.Start(t)
	setEnv(t, "OTEL_EXPORTER_OTLP_ENDPOINT="+sink.URL(), "OTEL_TRACES_SAMPLER=always_off")
	tel := setup(t)
	end(tel, "x")
	shutdown(t, tel)
	if spans := sink.Spans(); len(spans) != 0 {
		t.Errorf("got %+v, want nothing", spans)
	}
}

func TestOff(t *testing.T) {
	sink := otlpsink.Start(t)
	for name, env := range map[string][]string{
		"nothing set":          nil,
		"no endpoint":          {"OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "OTEL_SERVICE_NAME=x"},
		"OTEL_SDK_DISABLED":    {"OTEL_SDK_DISABLED=TRUE", "OTEL_EXPORTER_OTLP_ENDPOINT=" + sink.URL()},
		"OTEL_TRACES_EXPORTER": {"OTEL_TRACES_EXPORTER=none", "OTEL_EXPORTER_OTLP_ENDPOINT=" + sink.URL()},
	} {
		t.Run(name, func(t *testing.T) {
			logs := captureLogs(t)
			setEnv(t, env...)
			tel := setup(t)
			_, span := otel.Tracer("test").Start(t.Context(), "x")
			if span.IsRecording() || span.SpanContext().IsValid() {
				t.Error("a span was made")
			}
			span.End()
			shutdown(t, tel)
			if got := logs.lines(); got[0] != "" {
				t.Errorf("got log lines %q, want none", got)
			}
			if spans := sink.Spans(); len(spans) != 0 {
				t.Errorf("exported %+v", spans)
			}
		})
	}
}

func TestWrongVariables(t *testing.T) {
	const endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318"
	for name, c := range map[string]struct {
		env  []string
		want string
	}{
		"protocol":           {[]string{endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL=thrift"}, `OTEL_EXPORTER_OTLP_PROTOCOL "thrift"`},
		"protocol of traces": {[]string{endpoint, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=thrift"}, `OTEL_EXPORTER_OTLP_TRACES_PROTOCOL "thrift"`},
		"exporter":           {[]string{endpoint, "OTEL_TRACES_EXPORTER=jaeger"}, `OTEL_TRACES_EXPORTER "jaeger"`},
		"host without http":  {[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=localhost:4318"}, `OTEL_EXPORTER_OTLP_ENDPOINT "localhost:4318"`},
		"not a URL":          {[]string{endpoint, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=:4318"}, `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT ":4318"`},
	} {
		t.Run(name, func(t *testing.T) {
			setEnv(t, c.env...)
			_, err := otelsdk.Setup(t.Context(), "millrace", "1.2.3")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error that names %s", err, c.want)
			}
		})
	}
}

// TestFailuresAreLoggedOncePerChange lets a receiver refuse several batches and take some again, twice.
func TestFailuresAreLoggedOncePerChange(t *testing.T) {
	logs := captureLogs(t)
	var refusing atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if refusing.Load() {
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	t.Cleanup(server.Close)
	setEnv(t, "OTEL_EXPORTER_OTLP_ENDPOINT="+server.URL)
	tel := setup(t)
	for _, refuse := range []bool{false, true, true, true, false, false, true, true} {
		refusing.Store(refuse)
		end(tel, "x")
		flush(t, tel)
	}
	shutdown(t, tel)

	var got []string
	for _, line := range logs.lines() {
		switch {
		case strings.Contains(line, "can't be exported") && strings.Contains(line, "403 Forbidden"):
			got = append(got, "fails")
		case strings.Contains(line, "are exported again"):
			got = append(got, "works")
		default:
			got = append(got, line)
		}
	}
	if diff := cmp.Diff([]string{"fails", "works", "fails"}, got); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

// TestReceiverThatNeverAnswers holds the first export and sees that spans still end at once, far more of them than the
// queue takes, and that stopping is bounded by 5 s or by its caller.
func TestReceiverThatNeverAnswers(t *testing.T) {
	for protocol, patience := range map[string]time.Duration{"http/protobuf": time.Minute, "grpc": 100 * time.Millisecond} {
		t.Run(protocol, func(t *testing.T) {
			logs := captureLogs(t)
			hole := newBlackHole(t)
			setEnv(t, "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+hole.address, "OTEL_EXPORTER_OTLP_PROTOCOL="+protocol, "OTEL_BSP_SCHEDULE_DELAY=10", "OTEL_EXPORTER_OTLP_TIMEOUT=60000")
			tel := setup(t)
			end(tel, "x")
			<-hole.reached

			ended := make(chan struct{})
			go func() {
				defer close(ended)
				for range 20_000 {
					end(tel, "x")
				}
			}()
			select {
			case <-ended:
			case <-time.After(20 * time.Second):
				t.Fatal("spans wait for the receiver")
			}

			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			began, bound := time.Now(), min(patience, 5*time.Second)
			err := tel.Shutdown(ctx)
			if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took > bound+time.Second {
				t.Errorf("shutdown: got %v after %s, want that the deadline is exceeded after %s", err, took, bound)
			}
			<-logs.written // the export that was given up ends a moment later, and not in the middle of another test
		})
	}
}

// blackHole takes connections and never answers.
type blackHole struct {
	address string
	reached chan struct{} // gets a value per connection
}

func newBlackHole(t *testing.T) *blackHole {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &blackHole{address: listener.Addr().String(), reached: make(chan struct{}, 100)}
	var accepting sync.WaitGroup
	var connections []net.Conn
	accepting.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			connections = append(connections, conn)
			h.reached <- struct{}{}
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		accepting.Wait()
		for _, conn := range connections {
			_ = conn.Close()
		}
	})
	return h
}
