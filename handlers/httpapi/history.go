package httpapi

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rishi-platform/millrace/internal/units"
	"github.com/rishi-platform/millrace/pipeline"
)

const (
	defaultLimit = 50
	maxLimit     = 1000
	// scanLimit is how many entries one request looks at: a filter that matches nothing must not read a whole server.
	scanLimit = 100_000
	// pageBytes is how large a page grows: one event of 1 MiB after the other would be a gigabyte. A bare batch, which can't say that there is more, grows on.
	pageBytes = 16 << 20
)

// parameter is a query parameter of history.
type parameter struct {
	name, doc string
	values    []any // those that there are, the default first; nil: any text
}

var historyParameters = []parameter{
	{name: "eventType", doc: "event type or pattern (booking.*, **), may be repeated"},
	{name: "subject", doc: "of this subject"},
	{name: "correlationId", doc: "of this correlation ID"},
	{name: "organizationId", doc: "of this tenant"},
	{name: "userId", doc: "caused by this user"},
	{name: "since", doc: "stored at this time or later: RFC 3339, a date (in UTC), or how long ago, such as 2h or 1d"},
	{name: "until", doc: "stored before this time, likewise"},
	{name: "after", doc: "cursor: next of the last page"},
	{name: "limit", doc: "how many events a page has at most: 1 to 1000, default 50"},
	{name: "order", doc: "desc: the newest first; asc: the oldest first", values: []any{"desc", "asc"}},
	{name: "source", doc: "redis, local (recent events of this instance), or all", values: []any{"all", "redis", "local"}},
}

// page is the answer to a history request, which is written event by event.
type page struct {
	Events []pipeline.Record `json:"events"`
	pageEnd
}

type pageEnd struct {
	Next     *string `json:"next" doc:"cursor of the next page; null at the end"`
	Complete bool    `json:"complete" doc:"false when 100,000 entries were looked at, the page has 16 MiB, or reading broke off; next goes on"`
}

func (a *api) history(w http.ResponseWriter, r *http.Request) {
	query, limit, faults := parseHistory(r)
	if len(faults) > 0 {
		a.problem(w, invalid(faults...))
		return
	}
	out := newPageWriter(w, wantsBatch(r.Header))
	end, last := pageEnd{Complete: true}, ""
	for record, err := range a.bus.History(r.Context(), query) {
		if err == nil && out.events == limit { // one more than was asked for: there is a next page
			end.Next = cursorText(last)
			continue
		}
		if err == nil && out.isFull() {
			end = pageEnd{Next: cursorText(last)}
			break
		}
		if err == nil {
			err = out.add(record)
		}
		if scan := (*pipeline.ScanLimitError)(nil); errors.As(err, &scan) {
			end = pageEnd{Next: cursorText(scan.Cursor)}
			continue
		}
		if err != nil && !out.begun {
			a.problem(w, a.problemOf(r, err, func(f pipeline.Fault) fault { return fault{"query." + f.Field, f.Reason} }))
			return
		}
		if r.Context().Err() != nil {
			panic(http.ErrAbortHandler) // the client has gone
		}
		if err != nil {
			a.cfg.Logger.Warn("page of the history breaks off", "err", err)
			if out.batch || last == "" {
				panic(http.ErrAbortHandler) // nobody must take it for whole
			}
			end = pageEnd{Next: cursorText(last)} // whoever goes on is told the reason
			break
		}
		last = record.Cursor()
	}
	out.end(end)
}

func cursorText(cursor string) *string {
	text := base64.RawURLEncoding.EncodeToString([]byte(cursor))
	return &text
}

// wantsBatch reports whether the client asks for a bare batch of CloudEvents.
func wantsBatch(h http.Header) bool {
	for _, accepted := range strings.Split(strings.Join(h.Values("Accept"), ","), ",") {
		mediaType, parameters, err := mime.ParseMediaType(accepted)
		if quality, e := strconv.ParseFloat(parameters["q"], 64); err == nil && mediaType == typeBatch && (e != nil || quality > 0) {
			return true
		}
	}
	return false
}

// checkParameters returns a fault for each query parameter that is none, and for each that has a value which is none of its values: a typo
// must not be taken for "everything".
func checkParameters(r *http.Request, known []parameter) []fault {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil { // URL.Query would leave out what it can't read
		return []fault{{"query", "is not well-formed"}}
	}
	var names []string
	var faults []fault
	for _, p := range known {
		names = append(names, p.name)
		if text := values.Get(p.name); text != "" && p.values != nil && !slices.Contains(p.values, any(text)) {
			faults = append(faults, fault{"query." + p.name, fmt.Sprintf("want one of %v", p.values)})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		switch {
		case len(names) == 0:
			faults = append(faults, fault{"query", "has a parameter, and there are none"})
		case !slices.Contains(names, name):
			faults = append(faults, fault{"query", "has an unknown parameter" + named(name) + "; known are " + strings.Join(names, ", ")})
		case len(values[name]) > 1 && name != "eventType":
			faults = append(faults, fault{"query." + name, "is given twice"})
		}
	}
	return faults
}

// parseHistory reads the parameters. The query asks for one event more than the limit, to know whether there is a next page.
func parseHistory(r *http.Request) (q pipeline.Query, limit int, faults []fault) {
	values := r.URL.Query()
	wrong := func(name, message string) { faults = append(faults, fault{"query." + name, message}) }

	q = pipeline.Query{
		Patterns: values["eventType"], Subject: values.Get("subject"), CorrelationID: values.Get("correlationId"),
		OrganizationID: values.Get("organizationId"), UserID: values.Get("userId"), Scan: scanLimit, Newest: values.Get("order") != "asc",
	}
	for _, p := range q.Patterns {
		if pipeline.CheckPattern(p) != nil {
			wrong("eventType", "want a type, with * for any one segment and ** for all that follow: booking.*")
		}
	}
	limit = defaultLimit
	if text, given := values["limit"]; given {
		n, err := strconv.Atoi(text[0])
		if err != nil || n < 1 || n > maxLimit {
			wrong("limit", fmt.Sprintf("want 1 to %d", maxLimit))
		} else {
			limit = n
		}
	}
	q.Limit = limit + 1
	if source := values.Get("source"); source != "all" {
		q.Source = pipeline.Source(source)
	}
	now := time.Now()
	for _, bound := range []struct {
		name   string
		target *time.Time
	}{{"since", &q.Since}, {"until", &q.Until}} {
		if text := values.Get(bound.name); text != "" {
			t, err := timeOf(text, now)
			if err != nil {
				wrong(bound.name, "want a time as in RFC 3339, a date, or how long ago, such as 2h or 1d")
			}
			*bound.target = t
		}
	}
	if !q.Until.IsZero() && q.Until.Before(q.Since) {
		wrong("until", "is before since")
	}
	if text := values.Get("after"); text != "" {
		cursor, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil || pipeline.CheckCursor(string(cursor)) != nil {
			wrong("after", "want the next of an earlier page")
		}
		q.Cursor = string(cursor)
	}
	return q, limit, faults
}

// timeOf reads a time. One before 1970 is 1970: nothing was stored earlier, and the zero time would mean that there is no bound.
func timeOf(text string, now time.Time) (time.Time, error) {
	t, err := units.Time(text, now)
	if epoch := time.Unix(0, 0); err == nil && t.Before(epoch) {
		t = epoch
	}
	return t, err
}
