package httpapi_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rishi-platform/millrace/handlers/httpapi"
	"github.com/rishi-platform/millrace/internal/redistest"
	"github.com/rishi-platform/millrace/pipeline"
)

func TestMain(m *testing.M) { os.Exit(redistest.Run(m)) }

const (
	publishPath = "/api/events/publish"
	historyPath = "/api/events/history"
	healthPath  = "/api/events/health"

	isJSON       = "Content-Type: application/json"
	isCloudEvent = "Content-Type: application/cloudevents+json"
	isBatch      = "Content-Type: application/cloudevents-batch+json"
)

// secret is in requests that are refused. No problem may repeat it.
const secret = "s3cr3t"

// openBus opens a bus that the test's Cleanup closes.
func openBus(t testing.TB, cfg pipeline.Config) *pipeline.Bus {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	b, err := pipeline.Open(t.Context(), cfg)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { closeBus(t, b) })
	return b
}

func closeBus(t testing.TB, b *pipeline.Bus) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := b.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
}

// inMemory is the API of a bus in memory.
func inMemory(t testing.TB) (http.Handler, *pipeline.Bus) {
	b := openBus(t, pipeline.Config{Service: "test"})
	return newAPI(b), b
}

func newAPI(b httpapi.Bus) http.Handler {
	return httpapi.New(b, httpapi.Config{Logger: slog.New(slog.DiscardHandler)})
}

// answer is what a client sees.
type answer struct {
	status int
	header http.Header
	body   string
}

// problem is a problem as a client reads it.
type problem struct {
	Type, Title, Detail string
	Status              int
	Errors              []fault
}

type fault struct{ Location, Message string }

func (a answer) problem(t testing.TB) problem {
	t.Helper()
	var p problem
	a.into(t, &p)
	return p
}

func (a answer) into(t testing.TB, value any) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), value); err != nil {
		t.Fatalf("%d %s: %v", a.status, a.body, err)
	}
}

// refuses holds the answer to a status and a code, and to the locations of what is wrong.
func (a answer) refuses(t testing.TB, status int, code string, locations ...string) {
	t.Helper()
	p := a.problem(t)
	var got []string
	for _, f := range p.Errors {
		got = append(got, f.Location)
		if f.Message == "" {
			t.Errorf("nothing is said about %s", f.Location)
		}
	}
	if a.status != status || p.Type != "urn:millrace:problem:"+code || !cmp.Equal(locations, got) {
		t.Errorf("got %d %s %q, want %d %s %q: %s", a.status, p.Type, got, status, code, locations, a.body)
	}
	if strings.Contains(a.body, secret) {
		t.Errorf("the problem repeats what was sent: %s", a.body)
	}
}

// request makes a request to localhost. Headers are lines, as "Content-Type: application/json".
func request(method, target string, body io.Reader, headers ...string) *http.Request {
	r := httptest.NewRequest(method, target, body)
	r.Host = "localhost:8080"
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		if name == "Host" {
			r.Host = value
		} else {
			r.Header.Add(name, value)
		}
	}
	return r
}

func get(t testing.TB, h http.Handler, target string, headers ...string) answer {
	t.Helper()
	return serve(t, h, request(http.MethodGet, target, nil, headers...))
}

func post(t testing.TB, h http.Handler, body string, headers ...string) answer {
	t.Helper()
	return serve(t, h, request(http.MethodPost, publishPath, strings.NewReader(body), headers...))
}

// serve returns the answer, and holds it to what every answer promises.
func serve(t testing.TB, h http.Handler, r *http.Request) answer {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	a := answer{w.Code, w.Header(), w.Body.String()}
	if id := a.header.Get("X-Correlation-ID"); !pipeline.ValidCorrelationID(id) {
		t.Errorf("X-Correlation-ID is %q", id)
	}
	if a.header.Get("X-Content-Type-Options") != "nosniff" || a.header.Get("Cache-Control") != "no-store" || a.header.Get("Content-Security-Policy") == "" {
		t.Errorf("headers that protect are missing: %v", a.header)
	}
	for name := range a.header {
		if strings.HasPrefix(name, "Access-Control-") {
			t.Errorf("%s: there is no CORS", name)
		}
	}
	if a.status < 400 || a.status == http.StatusServiceUnavailable && r.URL.Path == healthPath {
		return a
	}
	if got := a.header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("%d is answered as %q", a.status, got)
	}
	if p := a.problem(t); p.Status != a.status || p.Title == "" || p.Detail == "" || !strings.HasPrefix(p.Type, "urn:millrace:problem:") {
		t.Errorf("not a problem: %d %s", a.status, a.body)
	}
	mayComeAgain := a.status == http.StatusTooManyRequests || a.status == http.StatusServiceUnavailable
	if _, told := a.header["Retry-After"]; told != mayComeAgain {
		t.Errorf("%d with Retry-After %q", a.status, a.header.Get("Retry-After"))
	}
	return a
}

// published is the answer to a publish request as a client reads it.
type published struct {
	Events []struct {
		ID, Type, Stream, Durability string
		Position                     *string
		Duplicate                    bool
		Status                       int
		Problem                      *problem
	}
	CorrelationID string
}

// stored reads the whole history, oldest first.
func stored(t testing.TB, b *pipeline.Bus) []pipeline.Record {
	t.Helper()
	var all []pipeline.Record
	for r, err := range b.History(t.Context(), pipeline.Query{}) {
		if err != nil {
			t.Fatalf("history: %v", err)
		}
		all = append(all, r)
	}
	return all
}

// only is the one event that there is.
func only(t testing.TB, b *pipeline.Bus) pipeline.Event {
	t.Helper()
	all := stored(t, b)
	if len(all) != 1 {
		t.Fatalf("%d events are stored, want 1", len(all))
	}
	return all[0].Event
}
