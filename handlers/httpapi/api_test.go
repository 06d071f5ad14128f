package httpapi_test

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rishi-platform/millrace/handlers/httpapi"
	"github.com/rishi-platform/millrace/pipeline"
)

func TestPathsAndMethods(t *testing.T) {
	t.Parallel()
	h, _ := inMemory(t)
	for _, c := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"GET", "/", 302, ""},
		{"GET", publishPath, 405, "POST"},
		{"HEAD", publishPath, 405, "POST"},
		{"PUT", publishPath, 405, "POST"},
		{"OPTIONS", publishPath, 405, "POST"},
		{"POST", historyPath, 405, "GET, HEAD"},
		{"DELETE", historyPath, 405, "GET, HEAD"},
		{"OPTIONS", historyPath, 405, "GET, HEAD"},
		{"get", historyPath, 405, "GET, HEAD"},
		{"POST", healthPath, 405, "GET, HEAD"},
		{"POST", "/livez", 405, "GET, HEAD"},
		{"HEAD", historyPath, 200, ""},
		{"HEAD", healthPath, 200, ""},
		{"HEAD", "/livez", 200, ""},
		{"GET", "/api/events/" + secret, 404, ""},
		{"POST", "/" + secret, 404, ""},
		{"GET", publishPath + "/", 404, ""},
		{"GET", "/API/events/history", 404, ""},
		{"GET", "//docs", 404, ""},
		{"GET", "/api/events/stream", 404, ""},
		{"OPTIONS", "*", 404, ""},
	} {
		a := serve(t, h, request(c.method, c.path, nil))
		if a.status != c.status || a.header.Get("Allow") != c.allow {
			t.Errorf("%s %s: got %d with Allow %q, want %d with %q", c.method, c.path, a.status, a.header.Get("Allow"), c.status, c.allow)
		}
		switch c.status {
		case 404:
			a.refuses(t, 404, "not-found")
		case 405:
			a.refuses(t, 405, "method-not-allowed")
		}
	}
}

func TestHeadHasNoBody(t *testing.T) {
	t.Parallel()
	h, _ := inMemory(t)
	server := httptest.NewServer(h)
	defer server.Close()
	response, err := server.Client().Head(server.URL + healthPath)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK || response.ContentLength < 100 || response.Header.Get("Content-Type") != "application/json" {
		t.Errorf("got %s with %d bytes of %q", response.Status, response.ContentLength, response.Header.Get("Content-Type"))
	}
}

func TestUnknownParametersAreRefusedEverywhere(t *testing.T) {
	t.Parallel()
	h, b := inMemory(t)
	for _, path := range []string{"/", historyPath, healthPath, "/livez", "/readyz", "/openapi.json", "/docs"} {
		get(t, h, path+"?"+secret+"=1").refuses(t, 422, "invalid", "query")
	}
	r := request(http.MethodPost, publishPath+"?"+secret, strings.NewReader(`{"type":"a"}`), isJSON)
	serve(t, h, r).refuses(t, 422, "invalid", "query")
	if n := len(stored(t, b)); n > 0 {
		t.Errorf("%d events were stored", n)
	}
}

func TestHostAndOrigin(t *testing.T) {
	t.Parallel()
	b := openBus(t, pipeline.Config{})
	strict, open := newAPI(b), httpapi.New(b, httpapi.Config{AllowAnonymous: true})
	for _, c := range []struct {
		host, origin string
		strict, open bool // whether it is let in
	}{
		{"localhost:8080", "", true, true},
		{"LocalHost", "", true, true},
		{"127.0.0.1:8080", "", true, true},
		{"127.9.9.9", "", true, true},
		{"[::1]:8080", "", true, true},
		{"[::1]", "", true, true},
		{"localhost:8080", "http://localhost:8080", true, true},
		{"[::1]:8080", "http://[::1]:8080", true, true},
		{"LOCALHOST:8080", "https://localhost:8080", true, true},

		{"", "", false, true}, // HTTP/1.0 without Host
		{"evil.example", "", false, true},
		{"evil.example:8080", "http://evil.example:8080", false, true},
		{"localhost.evil.example:8080", "", false, true},
		{"127.0.0.1.evil.example", "", false, true},
		{"127.0.0.1:80:80", "", false, true},
		{"0.0.0.0:8080", "", false, true},
		{"192.168.1.5:8080", "", false, true},
		{"[::]:8080", "", false, true},
		{"[fe80::1]:8080", "", false, true},
		{"2130706433", "", false, true},

		{"localhost:8080", "http://localhost:3000", false, false},
		{"localhost:8080", "http://127.0.0.1:8080", false, false},
		{"localhost:8080", "https://evil.example", false, false},
		{"localhost:8080", "https://localhost:8080.evil.example", false, false},
		{"localhost:8080", "https://evil.example/localhost:8080", false, false},
		{"localhost:8080", "null", false, false},
		{"localhost:8080", "localhost:8080", false, false},
		{"localhost:8080", "file://", false, false},
		{"localhost:8080", "://", false, false},
		{"", "null", false, false},
		{"events.example", "https://evil.example", false, false},
		{"events.example", "https://events.example", false, true},
	} {
		for _, api := range []struct {
			name    string
			handler http.Handler
			admits  bool
		}{{"strict", strict, c.strict}, {"open", open, c.open}} {
			headers := []string{"Host: " + c.host}
			if c.origin != "" {
				headers = append(headers, "Origin: "+c.origin)
			}
			for _, path := range []string{historyPath, healthPath, "/docs", "/openapi.json", "/nowhere"} {
				a := get(t, api.handler, path, headers...)
				if admitted := a.status != http.StatusForbidden; admitted != api.admits {
					t.Errorf("%s, %s, Host %q, Origin %q: got %d", api.name, path, c.host, c.origin, a.status)
				} else if !admitted {
					a.refuses(t, 403, "foreign-origin")
				}
			}
			for _, path := range []string{"/livez", "/readyz"} { // for probes, who come by the address of a pod
				if a := get(t, api.handler, path, headers...); a.status != http.StatusOK {
					t.Errorf("%s, %s, Host %q, Origin %q: got %d", api.name, path, c.host, c.origin, a.status)
				}
			}
		}
	}
}

func TestForeignPagePublishesNothing(t *testing.T) {
	t.Parallel()
	h, b := inMemory(t)
	post(t, h, `{"type":"a"}`, isJSON, "Origin: https://evil.example").refuses(t, 403, "foreign-origin")
	post(t, h, `{"type":"a"}`, isJSON, "Host: evil.example").refuses(t, 403, "foreign-origin")
	if n := len(stored(t, b)); n > 0 {
		t.Errorf("%d events were stored", n)
	}
}

// fake is a bus that does as it is told.
type fake struct {
	publish func(ctx context.Context, events []pipeline.Event) (pipeline.Receipt, error)
	history func(yield func(pipeline.Record, error) bool)
	ready   error
}

func (f fake) PublishWith(ctx context.Context, _ pipeline.PublishOptions, events ...pipeline.Event) (pipeline.Receipt, error) {
	return f.publish(ctx, events)
}

func (f fake) History(context.Context, pipeline.Query) iter.Seq2[pipeline.Record, error] {
	return f.history
}

func (f fake) Health(context.Context) pipeline.Health { panic(secret) }

func (f fake) Ready() error { return f.ready }

// failing is a bus on which the events fail one after the other with these errors; nil is a success.
func failing(errs ...error) fake {
	return fake{
		publish: func(_ context.Context, events []pipeline.Event) (pipeline.Receipt, error) {
			var r pipeline.Receipt
			for i, e := range events {
				o := pipeline.Outcome{ID: e.ID, Type: e.Type, Err: errs[i]}
				switch {
				case errs[i] == nil:
					o.Durability, o.Position = pipeline.Stored, "5-0"
				case errors.Is(errs[i], pipeline.ErrUnknown):
					o.Durability = pipeline.Unknown
				}
				r.Outcomes = append(r.Outcomes, o)
			}
			return r, errors.Join(errs...)
		},
		history: func(yield func(pipeline.Record, error) bool) { yield(pipeline.Record{}, errs[0]) },
		ready:   errs[0],
	}
}

var (
	away    = &pipeline.RedisError{Op: "append", Key: "ns:a", Kind: pipeline.ErrUnavailable, Err: errors.New("dial tcp: refused"), Hint: "is the server up?"}
	unknown = &pipeline.RedisError{Op: "append", Key: "ns:a", Kind: pipeline.ErrUnknown, Err: errors.Join(away, pipeline.ErrClosed)}
	full    = &pipeline.RedisError{Op: "append", Key: "ns:a", Kind: pipeline.ErrBackPressure, Err: errors.New("OOM command not allowed"), Hint: "raise maxmemory"}
	denied  = &pipeline.RedisError{Op: "append", Key: "ns:a", Kind: pipeline.ErrDenied, Err: errors.New("NOPERM this user has no permissions to run the 'xadd' command"), Hint: "give it"}
)

func TestErrorsOfTheBus(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err    error
		status int
		code   string
		says   []string
	}{
		{away, 503, "redis-unavailable", []string{"is the server up?"}},
		{unknown, 503, "outcome-unknown", []string{"same id"}},
		{full, 429, "back-pressure", []string{`key "ns:a"`, "OOM", "raise maxmemory"}},
		{denied, 500, "redis-refused", []string{`key "ns:a"`, "'xadd'", "give it"}},
		{pipeline.ErrClosed, 503, "shutting-down", nil},
		{errors.New(secret), 500, "internal", nil},
	} {
		t.Run(c.code, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			h := httpapi.New(failing(c.err), httpapi.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
			for _, a := range []answer{post(t, h, `{"type":"a"}`, isJSON), get(t, h, historyPath), get(t, h, "/readyz")} {
				a.refuses(t, c.status, c.code)
				for _, text := range c.says {
					if !strings.Contains(a.problem(t).Detail, text) {
						t.Errorf("%q is not said: %s", text, a.body)
					}
				}
			}
			if logged := strings.Count(log.String(), secret); c.code == "internal" && logged != 3 || c.code != "internal" && log.Len() > 0 {
				t.Errorf("the log says %q", log.String())
			}
		})
	}
}

func TestOutcomesThatDiffer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		errs     []error
		statuses []int
		codes    []string
	}{
		{"taken and not", []error{nil, away, nil}, []int{201, 503, 201}, []string{"", "redis-unavailable", ""}},
		{"of one status, for different reasons", []error{away, unknown}, []int{503, 503}, []string{"redis-unavailable", "outcome-unknown"}},
		{"all kinds", []error{denied, full, nil}, []int{500, 429, 201}, []string{"redis-refused", "back-pressure", ""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			body := "[" + strings.Repeat(`{"type":"a.b"},`, len(c.errs)-1) + `{"type":"a.b"}]`
			a := post(t, newAPI(failing(c.errs...)), body, isJSON)
			var got published
			a.into(t, &got)
			if a.status != http.StatusMultiStatus || a.header.Get("Content-Type") != "application/json" || len(got.Events) != len(c.errs) {
				t.Fatalf("got %d %s", a.status, a.body)
			}
			for i, e := range got.Events {
				code := ""
				if e.Problem != nil {
					code = strings.TrimPrefix(e.Problem.Type, "urn:millrace:problem:")
					if e.Problem.Status != e.Status || e.Problem.Detail == "" || e.Position != nil {
						t.Errorf("event %d: %+v", i, e)
					}
				}
				if e.Status != c.statuses[i] || code != c.codes[i] || e.Stream != "a" {
					t.Errorf("event %d: got %d %q of stream %q, want %d %q", i, e.Status, code, e.Stream, c.statuses[i], c.codes[i])
				}
			}
		})
	}
}

func TestOutcomesThatAreAlikeAreOneProblem(t *testing.T) {
	t.Parallel()
	post(t, newAPI(failing(full, full)), `[{"type":"a"},{"type":"a"}]`, isJSON).refuses(t, 429, "back-pressure")
}

func TestPanicIsAProblemAndALineInTheLog(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	h := httpapi.New(fake{}, httpapi.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	a := get(t, h, "/api/events/health", "X-Correlation-ID: c-1")
	a.refuses(t, 500, "internal")
	for _, text := range []string{secret, healthPath, "c-1", "api_test.go"} { // the last by the stack
		if !strings.Contains(log.String(), text) {
			t.Errorf("the log does not say %q: %s", text, log.String())
		}
	}
}

// An event of a year that RFC 3339 can't tell can't be encoded.
func TestAnswerThatCannotBeEncoded(t *testing.T) {
	t.Parallel()
	bad := pipeline.Record{Event: pipeline.Event{Time: time.Date(12026, 1, 1, 0, 0, 0, 0, time.UTC)}}
	h := newAPI(fake{history: func(yield func(pipeline.Record, error) bool) { yield(bad, nil) }})
	get(t, h, historyPath).refuses(t, 500, "internal")
}

func TestClientThatGoesAway(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	entered, left := make(chan struct{}), make(chan struct{})
	h := httpapi.New(fake{publish: func(ctx context.Context, events []pipeline.Event) (pipeline.Receipt, error) {
		close(entered)
		defer close(left)
		<-ctx.Done()
		return pipeline.Receipt{Outcomes: []pipeline.Outcome{{Err: context.Cause(ctx)}}}, context.Cause(ctx)
	}}, httpapi.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	server := httptest.NewServer(h)
	defer server.Close()

	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL+publishPath, strings.NewReader(`{"type":"a"}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	go func() {
		<-entered
		cancel()
	}()
	if response, err := server.Client().Do(r); err == nil {
		response.Body.Close()
		t.Errorf("got %s", response.Status)
	}
	<-left
	server.Close() // waits for the handler
	if log.Len() > 0 {
		t.Errorf("a client that went away is no error of ours: %s", log.String())
	}
}

func TestShuttingDown(t *testing.T) {
	t.Parallel()
	h, b := inMemory(t)
	closeBus(t, b)
	post(t, h, `{"type":"a"}`, isJSON).refuses(t, 503, "shutting-down")
	get(t, h, "/readyz").refuses(t, 503, "shutting-down")
	if a := get(t, h, "/livez"); a.status != http.StatusOK || a.body != `{"status":"alive"}`+"\n" {
		t.Errorf("livez: got %d %s", a.status, a.body)
	}
}

func TestReadyAndAlive(t *testing.T) {
	t.Parallel()
	h, _ := inMemory(t)
	for path, want := range map[string]string{"/livez": "alive", "/readyz": "ready"} {
		if a := get(t, h, path); a.status != http.StatusOK || a.body != `{"status":"`+want+`"}`+"\n" {
			t.Errorf("%s: got %d %s", path, a.status, a.body)
		}
	}
}
