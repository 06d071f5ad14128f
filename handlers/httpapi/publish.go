package httpapi

import (
	"errors"
	"net/http"
	"strings"

	"github.com/rishi-platform/millrace/pipeline"
)

// published is the answer to a publish request.
type published struct {
	Events        []publishedEvent `json:"events"`
	CorrelationID string           `json:"correlationId"`
}

// publishedEvent is what became of one event.
type publishedEvent struct {
	ID         string       `json:"id"`
	Type       string       `json:"type"`
	Stream     string       `json:"stream"`
	Position   *string      `json:"position" doc:"where it stands in its stream; null where nobody knows yet"`
	Durability string       `json:"durability" enum:"stored,spooled,volatile,refused,unknown" doc:"how safe it is now"`
	Duplicate  bool         `json:"duplicate"`
	Status     int          `json:"status,omitempty" doc:"in an answer 207"`
	Problem    *problemBody `json:"problem,omitempty" doc:"in an answer 207, of an event that failed"`
}

func (a *api) publish(w http.ResponseWriter, r *http.Request) {
	key, p := idempotencyKey(r.Header)
	if p != nil {
		a.problem(w, *p)
		return
	}
	asked, p := a.read(w, r)
	if p != nil {
		a.problem(w, *p)
		return
	}
	receipt, err := a.bus.PublishWith(r.Context(), pipeline.PublishOptions{Scope: asked.scope, Once: true, Key: key}, asked.events...)
	if errors.Is(err, pipeline.ErrInvalid) { // of the call as a whole: one invalid event refuses all
		a.problem(w, a.problemOf(r, err, asked.fault))
		return
	}
	a.answer(w, r, asked, receipt)
}

// idempotencyKey returns the key under which a request is carried out once; empty where none is given. It is text of the client's own.
func idempotencyKey(h http.Header) (string, *problem) {
	keys, given := h["Idempotency-Key"]
	if !given {
		return "", nil
	}
	key := keys[0]
	printable := strings.IndexFunc(key, func(r rune) bool { return r < ' ' || r > '~' }) < 0
	if len(keys) > 1 || key == "" || len(key) > 255 || !printable {
		p := invalid(fault{"header.Idempotency-Key", "want one of 1 to 255 printable ASCII characters"})
		return "", &p
	}
	return key, nil
}

// answer tells what became of each event: with one status where they fared alike, else with one for each.
func (a *api) answer(w http.ResponseWriter, r *http.Request, asked request, receipt pipeline.Receipt) {
	answer := published{CorrelationID: receipt.CorrelationID}
	var first problem // of the first event; its status where it was taken
	alike := true
	for i, o := range receipt.Outcomes {
		p := problem{status: http.StatusAccepted}
		switch {
		case o.Err != nil:
			p = a.problemOf(r, o.Err, asked.fault)
		case o.Durability >= pipeline.Stored:
			p.status = http.StatusCreated
		}
		if i == 0 {
			first = p
		}
		alike = alike && p.status == first.status && p.code == first.code
		answer.Events = append(answer.Events, eventOf(o, p))
	}
	switch {
	case !alike:
		a.write(w, http.StatusMultiStatus, typeJSON, answer)
	case first.code != "":
		a.problem(w, first)
	default:
		for i := range answer.Events {
			answer.Events[i].Status = 0 // it is that of the answer
		}
		a.write(w, first.status, typeJSON, answer)
	}
}

func eventOf(o pipeline.Outcome, p problem) publishedEvent {
	e := publishedEvent{ID: o.ID, Type: o.Type, Stream: pipeline.StreamOf(o.Type), Durability: o.Durability.String(), Duplicate: o.Duplicate, Status: p.status}
	if o.Position != "" {
		position := string(o.Position)
		e.Position = &position
	}
	if p.code != "" {
		body := p.body()
		e.Problem = &body
	}
	return e
}
