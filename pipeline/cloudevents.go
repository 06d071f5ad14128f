package pipeline

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/rishi-platform/millrace/internal/wire"
)

// The extension attributes that are fields of an Event. The names are those of the HTTP API.
const (
	extCorrelation  = "correlationid"
	extCausation    = "causationid"
	extOrganization = "organizationid"
	extUser         = "userid"
	// extHeaders holds, as a JSON object in a string, the headers whose names no CloudEvents attribute may have.
	extHeaders = "millraceheaders"
)

// contextAttributes are the members of the JSON format that are no headers, and those that Record adds. A dataschema is kept as a
// header: nothing here looks at it.
var contextAttributes = map[string]bool{
	"specversion": true, "id": true, "source": true, "type": true, "subject": true, "time": true, "datacontenttype": true,
	"data": true, "data_base64": true, "stream": true, "position": true,
}

// MarshalJSON returns the event in the structured JSON format of CloudEvents 1.0. Data of a JSON content type stands in "data", with its white
// space removed and nothing else changed; all other data in "data_base64", and so does what is no JSON, not UTF-8, or nested deeper than 512. Headers are extension attributes; those whose names are
// none travel together in the extension "millraceheaders". Text that is not UTF-8 can't be told in JSON and is replaced by U+FFFD. The
// only error is a time outside of the years 0 to 9999.
func (e Event) MarshalJSON() ([]byte, error) { return e.appendJSON(nil) }

// MarshalJSON returns the event as Event.MarshalJSON does, with "stream" and "position" added.
func (r Record) MarshalJSON() ([]byte, error) {
	return r.Event.appendJSON([][2]string{{"stream", r.Stream}, {"position", string(r.Position)}})
}

func (e Event) appendJSON(extra [][2]string) ([]byte, error) {
	w := newMembers()
	w.add("id", e.ID)
	w.add("source", e.Source)
	w.add("type", e.Type)
	w.add("subject", e.Subject)
	if !e.Time.IsZero() {
		at, err := wire.CheckedTime(e.Time)
		if err != nil {
			return nil, fmt.Errorf("cloudevent: attribute time: %w", err)
		}
		w.add("time", at.Format(time.RFC3339Nano))
	}
	w.add(extCorrelation, e.CorrelationID)
	w.add(extCausation, e.CausationID)
	w.add(extOrganization, e.OrganizationID)
	w.add(extUser, e.UserID)
	w.addHeaders(e.Header)
	for _, m := range extra {
		w.add(m[0], m[1])
	}
	w.add("datacontenttype", e.ContentType)
	w.addData(e.ContentType, e.Data)
	w.WriteByte('}')
	return w.Bytes(), nil
}

// members writes a JSON object member by member.
type members struct {
	bytes.Buffer
	strings *json.Encoder // into the buffer; without the escapes for HTML
}

func newMembers() *members {
	w := &members{}
	w.strings = json.NewEncoder(w)
	w.strings.SetEscapeHTML(false)
	w.WriteString(`{"specversion":"1.0"`)
	return w
}

// add writes a member, unless its value is empty: most readers can't tell an empty attribute from an absent one.
func (w *members) add(name, value string) {
	if value == "" {
		return
	}
	w.WriteByte(',')
	w.string(name)
	w.WriteByte(':')
	w.string(value)
}

func (w *members) string(s string) {
	_ = w.strings.Encode(s) // a string always encodes
	w.Truncate(w.Len() - 1) // the line feed
}

// addHeaders writes each header that may be an extension attribute as one, and all others together.
func (w *members) addHeaders(header map[string]string) {
	others := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(header)) {
		if value := header[name]; isExtension(name) && value != "" {
			w.add(name, value)
		} else {
			others[name] = value
		}
	}
	if len(others) > 0 {
		all, _ := json.Marshal(others) // strings always encode
		w.add(extHeaders, string(all))
	}
}

func (w *members) addData(contentType string, data []byte) {
	if len(data) == 0 {
		return
	}
	begun := w.Len()
	if isJSON(contentType) && jsonFault(data) == "" {
		w.WriteString(`,"data":`)
		if json.Compact(&w.Buffer, data) == nil {
			return
		}
		w.Truncate(begun) // it is no JSON, whatever its content type says
	}
	w.WriteString(`,"data_base64":"`)
	w.WriteString(base64.StdEncoding.EncodeToString(data))
	w.WriteByte('"')
}

// isExtension reports whether a header may be an extension attribute of its own.
func isExtension(name string) bool {
	if name == "" || contextAttributes[name] {
		return false
	}
	switch name {
	case extCorrelation, extCausation, extOrganization, extUser, extHeaders:
		return false
	}
	for i := range len(name) {
		if c := name[i]; !('a' <= c && c <= 'z' || '0' <= c && c <= '9') {
			return false
		}
	}
	return true
}

// UnmarshalJSON reads an event in the structured JSON format of CloudEvents 1.0. Names are matched exactly, and a name that occurs
// twice is an error, as is anything that follows the object. Attributes that are no fields of an Event become headers, numbers
// and booleans by their JSON text. What Record.MarshalJSON adds is passed over. An error names the attribute and leaves e as it was.
func (e *Event) UnmarshalJSON(text []byte) error {
	read := Event{Header: map[string]string{}}
	attributes, err := readMembers(text)
	if err == nil {
		err = read.setAttributes(attributes)
	}
	if err != nil {
		return fmt.Errorf("cloudevent: %w", err)
	}
	*e = read
	return nil
}

// readMembers splits a JSON object into its members.
func readMembers(text []byte) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	start, err := dec.Token()
	if err != nil {
		return nil, fmt.Errorf("want a JSON object: %w", err)
	}
	if start != json.Delim('{') {
		return nil, errors.New("want a JSON object")
	}
	read := map[string]json.RawMessage{}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return nil, err
		}
		name, _ := token.(string) // the decoder lets nothing else be a name
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, fmt.Errorf("attribute %s: %w", name, err)
		}
		if _, twice := read[name]; twice {
			return nil, fmt.Errorf("attribute %s occurs twice", name)
		}
		read[name] = value
	}
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("something follows the JSON object")
	}
	return read, nil
}

func (e *Event) setAttributes(attributes map[string]json.RawMessage) error {
	maps.DeleteFunc(attributes, func(name string, value json.RawMessage) bool {
		return name != "data" && string(value) == "null" // the same as absent (JSON format, section 2.2)
	})
	version := ""
	texts := map[string]*string{
		"specversion": &version, "id": &e.ID, "source": &e.Source, "type": &e.Type, "subject": &e.Subject, "datacontenttype": &e.ContentType,
		extCorrelation: &e.CorrelationID, extCausation: &e.CausationID, extOrganization: &e.OrganizationID, extUser: &e.UserID,
	}
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		value := attributes[name]
		var err error
		switch target := texts[name]; {
		case target != nil:
			err = json.Unmarshal(value, target)
		case name == "time":
			err = e.setTime(value)
		case name == extHeaders:
			err = e.setHeaders(value)
		case contextAttributes[name]: // data is set below, stream and position are no part of an Event
		default:
			err = e.setExtension(name, value)
		}
		if err != nil {
			return fmt.Errorf("attribute %s: %w", name, err)
		}
	}
	if version != "1.0" {
		return fmt.Errorf("attribute specversion: want 1.0, got %q", version)
	}
	for _, name := range []string{"id", "source", "type"} {
		if *texts[name] == "" {
			return fmt.Errorf("attribute %s is missing", name)
		}
	}
	return e.setData(attributes)
}

func (e *Event) setTime(value json.RawMessage) error {
	var at time.Time
	err := json.Unmarshal(value, &at)
	if err == nil {
		e.Time, err = wire.CheckedTime(at)
	}
	return err
}

// setHeaders takes the headers that no CloudEvents attribute can carry.
func (e *Event) setHeaders(value json.RawMessage) error {
	var text string
	if err := json.Unmarshal(value, &text); err != nil {
		return err
	}
	headers, err := readMembers([]byte(text))
	if err != nil {
		return err
	}
	for name, value := range headers {
		if value[0] != '"' {
			return fmt.Errorf("header %q: want a string", name)
		}
		if err := e.setExtension(name, value); err != nil {
			return err
		}
	}
	return nil
}

// setExtension keeps an extension attribute as a header: a string as it is, a number or a boolean as its JSON text.
func (e *Event) setExtension(name string, value json.RawMessage) error {
	if _, twice := e.Header[name]; twice {
		return fmt.Errorf("header %q stands in %s too", name, extHeaders)
	}
	switch value[0] {
	case '{', '[':
		return errors.New("want a string, a number or a boolean")
	case '"':
		var text string
		if err := json.Unmarshal(value, &text); err != nil {
			return err
		}
		e.Header[name] = text
	default:
		e.Header[name] = string(value)
	}
	return nil
}

func (e *Event) setData(attributes map[string]json.RawMessage) error {
	data, hasData := attributes["data"]
	encoded, hasEncoded := attributes["data_base64"]
	switch {
	case hasData && hasEncoded:
		return errors.New("attributes data and data_base64 exclude each other")
	case hasEncoded:
		if encoded[0] != '"' {
			return errors.New("attribute data_base64: want a string") // json would take an array of numbers for bytes
		}
		if err := json.Unmarshal(encoded, &e.Data); err != nil {
			return fmt.Errorf("attribute data_base64: %w", err)
		}
	case hasData && !isJSON(e.ContentType) && data[0] == '"':
		// Data of another content type stands in "data" as a string (JSON format, section 3.1.1).
		var text string
		if err := json.Unmarshal(data, &text); err != nil {
			return fmt.Errorf("attribute data: %w", err)
		}
		e.Data = []byte(text)
	case hasData:
		e.Data = slices.Clone(data)
	}
	return nil
}
