package httpapi

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/rishi-platform/millrace/pipeline"
)

// cloudEvent is an event in the JSON format of CloudEvents 1.0, for the description alone: pipeline.Event reads and writes it.
type cloudEvent struct {
	_               struct{}  `additionalProperties:"true"`
	SpecVersion     string    `json:"specversion" enum:"1.0" doc:"of the specification CloudEvents"`
	ID              string    `json:"id" doc:"1 to 256 visible ASCII characters"`
	Source          string    `json:"source" doc:"the publishing service; with the ID the identity of the event"`
	Type            string    `json:"type" doc:"dotted lower-case name, as booking.created"`
	Subject         string    `json:"subject,omitempty" doc:"what it is about; events of one subject keep their order"`
	Time            time.Time `json:"time,omitzero" doc:"when it happened, RFC 3339; default now"`
	DataContentType string    `json:"datacontenttype,omitempty" doc:"default application/json"`
	Data            any       `json:"data,omitempty" doc:"the payload, where it is JSON"`
	DataBase64      []byte    `json:"data_base64,omitempty" doc:"the payload, where it is not"`
	Correlation     string    `json:"correlationid,omitempty" doc:"shared by all that one request caused; default: that of this request"`
	Causation       string    `json:"causationid,omitempty" doc:"ID of the event that led to this one"`
	Organization    string    `json:"organizationid,omitempty" doc:"tenant"`
	User            string    `json:"userid,omitempty" doc:"who caused it"`
	TraceParent     string    `json:"traceparent,omitempty" doc:"W3C Trace Context"`
	TraceState      string    `json:"tracestate,omitempty" doc:"W3C Trace Context"`
	Headers         string    `json:"millraceheaders,omitempty" doc:"headers whose names can't be attributes, as the text of a JSON object"`
	Stream          string    `json:"stream,omitempty" readOnly:"true" doc:"in answers: the stream that it stands in"`
	Position        string    `json:"position,omitempty" readOnly:"true" doc:"in answers: where it stands in its stream"`
}

const wantString = "want a string"

type attribute struct {
	name, want string
	required   bool
}

// attributes are those that pipeline.Event gives a meaning, and what it wants of each.
var attributes = []attribute{
	{"specversion", `want "1.0"`, true}, {"id", wantString, true}, {"source", wantString, true}, {"type", wantString, true},
	{"subject", wantString, false}, {"time", "want a time as in RFC 3339, in the years 0 to 9999", false}, {"datacontenttype", wantString, false},
	{"data_base64", "want base64 in a string", false}, {"correlationid", wantString, false}, {"causationid", wantString, false},
	{"organizationid", wantString, false}, {"userid", wantString, false}, {"millraceheaders", "want the text of a JSON object of strings", false},
}

// parseCloudEvent reads one event in the JSON format of CloudEvents.
func parseCloudEvent(text []byte, where place) (pipeline.Event, []fault) {
	fields, faults := members(text, where)
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if name == "data" || slices.ContainsFunc(attributes, func(a attribute) bool { return a.name == name }) {
			continue // looked at below
		}
		if !isAttributeName(name) {
			faults = append(faults, fault{where.whole, "has a field whose name no attribute may have: a to z and 0 to 9 only"})
		} else if first := fields[name][0]; first == '{' || first == '[' {
			faults = append(faults, fault{where.whole, "has an attribute that is no string, number or boolean"})
		}
	}
	return eventOfAttributes(text, fields, where, faults)
}

// eventOfAttributes makes an event of a text and of the members that the text has. pipeline.Event decides what is right. Its error says
// what is wrong too, but repeats what was sent; so each attribute is tried again in an event that is right otherwise.
func eventOfAttributes(text []byte, fields map[string]json.RawMessage, where place, faults []fault) (pipeline.Event, []fault) {
	var event pipeline.Event
	if len(faults) > 0 && fields == nil || event.UnmarshalJSON(text) == nil {
		return event, faults
	}
	for _, a := range attributes {
		value, at := fields[a.name], where.of(a.name)
		if isNull(value) || a.required && string(value) == `""` {
			if a.required && !slices.ContainsFunc(faults, func(f fault) bool { return f.Location == at }) {
				faults = append(faults, fault{at, "is required"})
			}
			continue
		}
		alone := map[string]json.RawMessage{"specversion": []byte(`"1.0"`), "id": []byte(`"1"`), "source": []byte(`"1"`), "type": []byte(`"1"`), a.name: value}
		text, _ := json.Marshal(alone) // the value was checked to be JSON
		if new(pipeline.Event).UnmarshalJSON(text) != nil {
			faults = append(faults, fault{at, a.want})
		}
	}
	if len(faults) == 0 {
		faults = []fault{{where.whole, "has attributes that exclude each other: data and data_base64, or one that stands in millraceheaders too"}}
	}
	return event, faults
}

// isAttributeName reports whether an attribute may have this name (CloudEvents 1.0, naming conventions; 256 is the bus's limit).
func isAttributeName(name string) bool {
	return name != "" && len(name) <= 256 && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789") == ""
}

// isBinary reports whether the headers are those of a CloudEvent in binary mode. One required attribute is enough: the others are then
// missed aloud.
func isBinary(h http.Header) bool {
	for _, name := range []string{"Ce-Specversion", "Ce-Id", "Ce-Type"} {
		if _, given := h[name]; given {
			return true
		}
	}
	return false
}

// addBinary adds the event of a request in binary mode (CloudEvents HTTP binding 1.0.2, section 3.1).
func (r *request) addBinary(h http.Header, body []byte) []fault {
	where := r.place(0)
	fields := map[string]json.RawMessage{}
	var faults []fault
	for _, header := range slices.Sorted(maps.Keys(h)) {
		values := h[header]
		name, is := strings.CutPrefix(strings.ToLower(header), "ce-")
		if !is {
			continue
		}
		value, ok := unescape(values[0])
		switch {
		case !isAttributeName(name):
			faults = append(faults, fault{where.whole, "has a ce- header whose name no attribute may have: a to z and 0 to 9 only"})
		case name == "datacontenttype":
			faults = append(faults, fault{where.of(name), "is Content-Type in this mode"})
		case name == "data":
			faults = append(faults, fault{where.of(name), "is the body in this mode"})
		case len(values) > 1:
			faults = append(faults, fault{where.of(name), "is given twice"})
		case !ok:
			faults = append(faults, fault{where.of(name), "want UTF-8, percent-encoded: a percent sign is %25"})
		default:
			fields[name], _ = json.Marshal(value) // a string always encodes
		}
	}
	text, _ := json.Marshal(fields) // likewise
	event, faults := eventOfAttributes(text, fields, where, faults)
	event.ContentType, event.Data = h.Get("Content-Type"), body
	r.events = []pipeline.Event{event}
	return faults
}

// unescape reads the value of a ce- header: first the quotes that older senders use, then the percent-encoding (section 3.1.3.2).
func unescape(value string) (string, bool) {
	var plain strings.Builder
	quoted := false
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case c == '"':
			quoted = !quoted
		case c == '\\' && quoted && i+1 < len(value):
			i++
			plain.WriteByte(value[i])
		default:
			plain.WriteByte(c)
		}
	}
	text, err := url.PathUnescape(plain.String())
	return text, err == nil && !quoted && utf8.ValidString(text)
}
