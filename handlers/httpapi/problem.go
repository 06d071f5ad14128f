package httpapi

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/rishi-platform/millrace/pipeline"
)

// problemPrefix and a code are the type of a problem. The codes are part of the API.
const problemPrefix = "urn:millrace:problem:"

// problem is an answer that says why not, as RFC 9457 has it.
type problem struct {
	status int
	code   string
	detail string
	faults []fault
	retry  bool   // Retry-After is given
	allow  string // the methods that there are, where the one that was used is not
}

// fault is one thing that is wrong with a request.
type fault struct {
	Location string `json:"location" doc:"where: body.type, body[2].type, query.limit, header.ce-type"`
	Message  string `json:"message" doc:"what is wrong with it"`
}

// problemBody is a problem as it is sent.
type problemBody struct {
	Type   string  `json:"type" doc:"urn:millrace:problem: and a stable code"`
	Title  string  `json:"title"`
	Status int     `json:"status"`
	Detail string  `json:"detail,omitempty"`
	Errors []fault `json:"errors,omitempty"`
}

func (p problem) body() problemBody {
	return problemBody{Type: problemPrefix + p.code, Title: http.StatusText(p.status), Status: p.status, Detail: p.detail, Errors: p.faults}
}

// internal is the answer to what should not have happened; the log says more.
var internal = problem{status: http.StatusInternalServerError, code: "internal", detail: "the server met an error of its own"}

// retryAfter is in seconds: an outage is looked at again every half second, so longer waits gain nothing.
const retryAfter = "1"

func (a *api) problem(w http.ResponseWriter, p problem) {
	if p.retry {
		w.Header().Set("Retry-After", retryAfter)
	}
	if p.allow != "" {
		w.Header().Set("Allow", p.allow)
	}
	a.write(w, p.status, typeProblem, p.body())
}

// write sends a value as JSON, without the escapes for HTML: nobody reads it as HTML (nosniff).
func (a *api) write(w http.ResponseWriter, status int, contentType string, value any) {
	body, err := jsonOf(value)
	if err != nil {
		a.cfg.Logger.Error("answer can't be encoded", "err", err)
		a.problem(w, internal) // a problem always encodes
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // a client that has gone is no error of ours
}

// maxFaults bounds what one problem lists: a body may be wrong a million times.
const maxFaults = 100

func invalid(faults ...fault) problem {
	p := problem{status: http.StatusUnprocessableEntity, code: "invalid", detail: "the request is well-formed, but says something that can't be"}
	seen := map[fault]bool{}
	for _, f := range faults {
		if !seen[f] && len(p.faults) < maxFaults {
			seen[f] = true
			p.faults = append(p.faults, f)
		}
	}
	return p
}

// problemOf is the answer to an error of the bus. What is wrong with the arguments of the call is told in the words of the request.
func (a *api) problemOf(r *http.Request, err error, tell func(pipeline.Fault) fault) problem {
	var wrong *pipeline.ValidationError
	switch {
	case errors.As(err, &wrong):
		var faults []fault
		for _, f := range wrong.Faults {
			faults = append(faults, tell(f))
		}
		p := invalid(faults...)
		if wrong.TooLarge {
			p.status, p.code, p.detail = http.StatusRequestEntityTooLarge, "too-large", "an event exceeds its limit"
		}
		return p
	case errors.Is(err, pipeline.ErrConflict):
		return problem{status: http.StatusUnprocessableEntity, code: "idempotency-conflict", detail: "the Idempotency-Key, or the source and ID of the event, was used with other content"}
	case errors.Is(err, pipeline.ErrUnknown): // first of those that Redis causes: what led to it stands in the same chain
		return problem{status: http.StatusServiceUnavailable, code: "outcome-unknown", detail: "it may have been stored: repeat it with the same id", retry: true}
	case errors.Is(err, pipeline.ErrClosed):
		return problem{status: http.StatusServiceUnavailable, code: "shutting-down", detail: "the server is being stopped", retry: true}
	case errors.Is(err, pipeline.ErrBackPressure):
		return problem{status: http.StatusTooManyRequests, code: "back-pressure", detail: reason(err), retry: true}
	case errors.Is(err, pipeline.ErrDenied):
		return problem{status: http.StatusInternalServerError, code: "redis-refused", detail: reason(err)}
	case errors.Is(err, pipeline.ErrSpoolFull):
		return problem{status: http.StatusServiceUnavailable, code: "spool-full", detail: "redis is away, and the spool has no room" + hint(err), retry: true}
	case errors.Is(err, pipeline.ErrSpoolFailed):
		return problem{status: http.StatusServiceUnavailable, code: "spool-error", detail: "redis is away, and the spool can't be written" + hint(err), retry: true}
	case errors.Is(err, pipeline.ErrUnavailable):
		return problem{status: http.StatusServiceUnavailable, code: "redis-unavailable", detail: "redis can't do it now, and nothing else may" + hint(err), retry: true}
	}
	if r.Context().Err() == nil { // a client that has gone is no error of ours
		a.cfg.Logger.Error("request failed", "path", r.URL.Path, "correlation_id", pipeline.CorrelationID(r.Context()), "err", err)
	}
	return internal
}

// reason is what Redis said, with the way out; it holds nothing of the request but the name of the stream.
func reason(err error) string {
	var e *pipeline.RedisError
	if !errors.As(err, &e) {
		return err.Error()
	}
	text := fmt.Sprint(e.Err)
	if e.Key != "" {
		text = fmt.Sprintf("key %q: %s", e.Key, text)
	}
	return text + hint(err)
}

// hint is the way out, where there is one.
func hint(err error) string {
	var e *pipeline.RedisError
	if errors.As(err, &e) && e.Hint != "" {
		return "; " + e.Hint
	}
	return ""
}
