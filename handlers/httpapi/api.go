package httpapi

import (
	"context"
	"iter"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/rishi-platform/millrace/pipeline"
)

// Bus is what the API needs: a *pipeline.Bus.
type Bus interface {
	PublishWith(ctx context.Context, o pipeline.PublishOptions, events ...pipeline.Event) (pipeline.Receipt, error)
	History(ctx context.Context, q pipeline.Query) iter.Seq2[pipeline.Record, error]
	Health(ctx context.Context) pipeline.Health
	Ready() error
}

var _ Bus = (*pipeline.Bus)(nil)

// Config is what the API is made with. The zero value is useful.
type Config struct {
	// AllowAnonymous makes everybody who reaches the handler an administrator, whatever host name was asked for. Default: requests must name a
	// loopback host, so that a web page can't reach a local server by a name of its own (DNS rebinding).
	AllowAnonymous bool
	// Version of the service, in the OpenAPI document. Default: none.
	Version string
	// MaxEventBody bounds the body of a request for one event, in bytes. Default: 1 MiB + 64 KiB.
	MaxEventBody int64
	// MaxBatchBody bounds the body of a request for several events, in bytes. Default: 8 MiB.
	MaxBatchBody int64
	// MaxBatch bounds the events of one request. Default: 100.
	MaxBatch int
	// Logger gets what no client can be told: a panic, an error that nobody foresaw, an answer that could not be encoded. Default: slog.Default().
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.MaxEventBody == 0 {
		c.MaxEventBody = 1<<20 + 64<<10
	}
	if c.MaxBatchBody == 0 {
		c.MaxBatchBody = 8 << 20
	}
	if c.MaxBatch == 0 {
		c.MaxBatch = 100
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// api is the handler.
type api struct {
	bus     Bus
	cfg     Config
	routes  map[string]map[string]route // by path and method
	openapi []byte
	docs    docs
}

// route is what answers one method of one path, and the query parameters that it takes.
type route struct {
	handle     http.HandlerFunc
	parameters []parameter
}

// New returns the API of a bus.
func New(bus Bus, cfg Config) http.Handler { return newAPI(bus, cfg) }

func newAPI(bus Bus, cfg Config) *api {
	a := &api{bus: bus, cfg: cfg.withDefaults()}
	a.routes = map[string]map[string]route{
		"/":                   {http.MethodGet: {handle: a.index}},
		"/api/events/publish": {http.MethodPost: {handle: a.publish}},
		"/api/events/history": {http.MethodGet: {handle: a.history, parameters: historyParameters}},
		"/api/events/health":  {http.MethodGet: {handle: a.health}},
		"/livez":              {http.MethodGet: {handle: a.livez}},
		"/readyz":             {http.MethodGet: {handle: a.readyz}},
		"/openapi.json":       {http.MethodGet: {handle: a.serveOpenAPI}},
		"/docs":               {http.MethodGet: {handle: a.serveDocs}},
	}
	a.render()
	return a
}

// ServeHTTP does what each request needs, and finds what answers it.
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	correlation := r.Header.Get(pipeline.HeaderCorrelationID)
	if !pipeline.ValidCorrelationID(correlation) {
		correlation = pipeline.NewCorrelationID()
	}
	h := w.Header()
	h.Set(pipeline.HeaderCorrelationID, correlation)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	r = r.WithContext(pipeline.WithCorrelationID(r.Context(), correlation))

	defer func() {
		p := recover()
		if p == http.ErrAbortHandler {
			panic(p) // the answer is to be cut off
		}
		if p != nil {
			a.cfg.Logger.Error("request panicked", "path", r.URL.Path, "correlation_id", correlation, "panic", p, "stack", string(debug.Stack()))
			a.problem(w, internal)
		}
	}()
	if p := a.admit(r); p != nil { // before anything else: who may not ask learns nothing, not even which paths there are
		a.problem(w, *p)
		return
	}
	to, p := a.find(r)
	if p != nil {
		a.problem(w, *p)
		return
	}
	if faults := checkParameters(r, to.parameters); faults != nil {
		a.problem(w, invalid(faults...))
		return
	}
	to.handle(w, r)
}

// find returns the route of a request. HEAD is answered as GET; net/http leaves the body out.
func (a *api) find(r *http.Request) (route, *problem) {
	methods, ok := a.routes[r.URL.Path]
	if !ok {
		return route{}, &problem{status: http.StatusNotFound, code: "not-found", detail: "there is nothing at this path; see /docs"}
	}
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	if to, ok := methods[method]; ok {
		return to, nil
	}
	var allowed []string
	for m := range methods {
		allowed = append(allowed, m)
		if m == http.MethodGet {
			allowed = append(allowed, http.MethodHead)
		}
	}
	slices.Sort(allowed)
	allow := strings.Join(allowed, ", ")
	return route{}, &problem{status: http.StatusMethodNotAllowed, code: "method-not-allowed", detail: "this path takes " + allow, allow: allow}
}

func (a *api) index(w http.ResponseWriter, r *http.Request) {
	http.Redirect(w, r, "/docs", http.StatusFound)
}
