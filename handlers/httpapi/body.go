package httpapi

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/rishi-platform/millrace/pipeline"
)

// The content types of requests and answers.
const (
	typeJSON       = "application/json"
	typeCloudEvent = "application/cloudevents+json"
	typeBatch      = "application/cloudevents-batch+json"
	typeProblem    = "application/problem+json"
)

// form is how the events of a request are written.
type form int

const (
	simple     form = iota // our own JSON, one or a list
	structured             // a CloudEvent as JSON
	batch                  // a list of them
	binary                 // a CloudEvent whose attributes are headers and whose data is the body
)

// request is what a publish request asks for.
type request struct {
	form   form
	list   bool // it is a list, also where it has one element
	events []pipeline.Event
	scope  pipeline.Scope
}

// place is where an event stands in a request, for problems.
type place struct{ whole, join string }

// of returns where a field of the event stands; the empty name is the whole event.
func (p place) of(name string) string {
	if name == "" {
		return p.whole
	}
	return p.whole + p.join + name
}

func (r request) place(index int) place {
	switch {
	case r.form == binary:
		return place{"header", ".ce-"}
	case r.list:
		return place{fmt.Sprintf("body[%d]", index), "."}
	}
	return place{"body", "."}
}

// fieldNames are the names of the fields of an event where a form has others than the bus. What the bus says about metadata is about
// several fields at once.
var fieldNames = map[form]map[string]string{
	simple:     {"time": "timestamp", "data": "payload"},
	structured: {"correlationId": "correlationid", "causationId": "causationid", "metadata": ""},
	batch:      {"correlationId": "correlationid", "causationId": "causationid", "metadata": ""},
	binary:     {"correlationId": "correlationid", "causationId": "causationid", "metadata": ""},
}

// fault tells in the words of the request what the bus found to be wrong with it. The bus repeats types, years and names of headers; a
// problem doesn't.
func (r request) fault(f pipeline.Fault) fault {
	index := max(f.Index, 0)
	field, message := f.Field, f.Reason
	switch {
	case strings.HasPrefix(field, "header."):
		field = "metadata"
	case field == "type" && pipeline.CheckType(r.events[index].Type) != nil:
		message = "want 1 to 8 segments of a-z, 0-9, _ and -, each up to 64 long, with dots between them: booking.created"
	case field == "time":
		message = "want a time in the years 0 to 9999"
	case field == "data" && r.form == binary:
		return fault{"body", message}
	}
	if name, other := fieldNames[r.form][field]; other {
		field = name
	}
	return fault{r.place(index).of(field), message}
}

// read reads a publish request, or says everything that is wrong with how it is written. The rules for events are the bus's.
func (a *api) read(w http.ResponseWriter, r *http.Request) (request, *problem) {
	asked, p := formOf(r)
	if p != nil {
		return asked, p
	}
	body, p := a.readBody(w, r, &asked)
	if p != nil {
		return asked, p
	}
	var faults []fault
	if asked.form == binary {
		faults = asked.addBinary(r.Header, body)
	} else if faults, p = a.addAll(&asked, body); p != nil {
		return asked, p
	}
	if len(faults) > 0 {
		wrong := invalid(faults...)
		return asked, &wrong
	}
	return asked, nil
}

// formOf tells by its headers how a request is written.
func formOf(r *http.Request) (request, *problem) {
	text := r.Header.Get("Content-Type")
	mediaType, _, err := mime.ParseMediaType(text)
	known := err == nil
	encoding := r.Header.Get("Content-Encoding")
	switch {
	case encoding != "" && !strings.EqualFold(encoding, "identity"):
		return request{}, unsupported("want a body without Content-Encoding")
	case known && mediaType == typeCloudEvent:
		return request{form: structured}, nil
	case known && mediaType == typeBatch:
		return request{form: batch, list: true}, nil
	case isBinary(r.Header) && (known || text == "") && !strings.HasPrefix(mediaType, "application/cloudevents"):
		return request{form: binary}, nil
	case known && mediaType == typeJSON:
		return request{form: simple}, nil
	}
	return request{}, unsupported("want Content-Type " + typeJSON + ", " + typeCloudEvent + " or " + typeBatch + ", or the attributes of a CloudEvent as ce- headers")
}

func unsupported(detail string) *problem {
	return &problem{status: http.StatusUnsupportedMediaType, code: "unsupported-media-type", detail: detail}
}

// readBody reads the body within its limit, and finds out whether it is a list. One that is too large is refused as soon as that is
// known, not when all of it has come.
func (a *api) readBody(w http.ResponseWriter, r *http.Request, asked *request) ([]byte, *problem) {
	in := bufio.NewReader(http.MaxBytesReader(w, r.Body, a.cfg.MaxBatchBody))
	if asked.form == simple {
		asked.list = firstByte(in) == '['
	}
	limit := a.cfg.MaxEventBody
	if asked.list {
		limit = a.cfg.MaxBatchBody
	}
	if r.ContentLength > limit {
		return nil, tooLarge(limit)
	}
	body, err := io.ReadAll(io.LimitReader(in, limit+1))
	var over *http.MaxBytesError
	switch {
	case errors.As(err, &over):
		return nil, tooLarge(over.Limit)
	case err != nil:
		return nil, badJSON("the body ended too soon")
	case int64(len(body)) > limit:
		return nil, tooLarge(limit)
	}
	return body, checkBody(r, asked.form, body)
}

// firstByte returns the first byte that is not white space, without taking it; 0 where there is none.
func firstByte(in *bufio.Reader) byte {
	for {
		switch c, err := in.ReadByte(); {
		case err != nil:
			return 0 // the next read says it again
		case c != ' ' && c != '\t' && c != '\r' && c != '\n':
			_ = in.UnreadByte() // it was read a moment ago
			return c
		}
	}
}

// checkBody makes sure that what says it is JSON is JSON, data in binary mode included: all who handle the event will rely on it.
func checkBody(r *http.Request, f form, body []byte) *problem {
	contentType := r.Header.Get("Content-Type")
	switch {
	case f == binary && len(body) == 0: // an event without data
		return nil
	case f == binary && contentType == "":
		return unsupported("want a Content-Type that says what the data is")
	case f == binary && !isJSON(contentType):
		return nil
	case len(body) == 0:
		return badJSON("the body is empty")
	case bytes.HasPrefix(body, byteOrderMark):
		return badJSON("the body begins with a byte order mark, which JSON does not have")
	case !utf8.Valid(body): // json.Valid does not look at it
		return badJSON("the body is not UTF-8")
	case !json.Valid(body):
		return badJSON("the body is not one JSON value")
	}
	return nil
}

// byteOrderMark is what some editors begin a file with. Who reads JSON may ignore it (RFC 8259, section 8.1), and events are kept as they are.
var byteOrderMark = []byte("\xef\xbb\xbf")

func badJSON(detail string) *problem {
	return &problem{status: http.StatusBadRequest, code: "bad-json", detail: detail}
}

func tooLarge(limit int64) *problem {
	return &problem{status: http.StatusRequestEntityTooLarge, code: "too-large", detail: fmt.Sprintf("the body has more than %d bytes", limit)}
}

// isJSON reports whether a content type declares JSON: subtype json, or one that ends in +json.
func isJSON(contentType string) bool {
	mediaType, _, err := mime.ParseMediaType(contentType)
	return err == nil && (strings.HasSuffix(mediaType, "/json") || strings.HasSuffix(mediaType, "+json"))
}

// addAll adds the event or the events of a JSON body to the request.
func (a *api) addAll(asked *request, body []byte) ([]fault, *problem) {
	first := bytes.TrimLeft(body, " \t\r\n")[0]
	if asked.form == structured && first != '{' || asked.form == batch && first != '[' {
		return nil, badJSON("the body is not in the JSON format of CloudEvents")
	}
	elements := []json.RawMessage{body}
	if asked.list {
		elements = a.split(body)
	}
	switch n := len(elements); {
	case n == 0:
		return []fault{{"body", "has no events"}}, nil
	case n > a.cfg.MaxBatch:
		return []fault{{"body", fmt.Sprintf("has more than %d events", a.cfg.MaxBatch)}}, nil
	}
	var faults []fault
	for i, element := range elements {
		var event pipeline.Event
		var scope pipeline.Scope
		var wrong []fault
		if asked.form == simple {
			event, scope, wrong = parseSimple(element, asked.place(i))
		} else {
			event, wrong = parseCloudEvent(element, asked.place(i))
		}
		if i == 0 {
			asked.scope = scope
		} else if scope != asked.scope {
			wrong = append(wrong, fault{asked.place(i).of("options"), "must be the same for all events of a request"})
		}
		asked.events = append(asked.events, event)
		faults = append(faults, wrong...)
	}
	return faults, nil
}

// split returns the elements of a list, at most one more than a request may have: a body of 8 MiB may be a list of millions. The body
// was checked to be JSON, so nothing here fails.
func (a *api) split(list []byte) []json.RawMessage {
	dec := json.NewDecoder(bytes.NewReader(list))
	_, _ = dec.Token()
	var elements []json.RawMessage
	for dec.More() && len(elements) <= a.cfg.MaxBatch {
		var element json.RawMessage
		_ = dec.Decode(&element)
		elements = append(elements, element)
	}
	return elements
}

// members splits an object into its members by their exact names. encoding/json would take "Type" for "type", and the last of two.
func members(object []byte, where place) (map[string]json.RawMessage, []fault) {
	dec := json.NewDecoder(bytes.NewReader(object))
	if start, err := dec.Token(); err != nil || start != json.Delim('{') {
		return nil, []fault{{where.whole, "want an object"}}
	}
	found := map[string]json.RawMessage{}
	var faults []fault
	for dec.More() {
		token, _ := dec.Token() // as above, this is known to be JSON
		name, _ := token.(string)
		var value json.RawMessage
		_ = dec.Decode(&value)
		if _, twice := found[name]; twice {
			faults = append(faults, fault{where.whole, "has a field twice"})
		}
		found[name] = value
	}
	return found, faults
}

// isNull reports whether a field is the same as absent.
func isNull(value json.RawMessage) bool { return len(value) == 0 || string(value) == "null" }
