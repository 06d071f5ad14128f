package pipeline

import (
	"encoding/json"
	"fmt"
	"time"
)

// Event is an immutable fact that a service publishes: "booking 789 was created". It is a CloudEvent 1.0; the JSON form
// of an Event is the structured JSON format of that specification (see MarshalJSON).
//
// Only Type must be set before publishing. Publish stamps ID, Time, Source, CorrelationID, CausationID and ContentType
// where they are empty, on its own copy: the caller's value is never changed.
type Event struct {
	ID             string            // 1 to 256 visible ASCII characters; a UUIDv7 where Publish makes it
	Type           string            // dotted lower-case name, 1 to 8 segments of [a-z0-9_-]; its first segment names the stream
	Source         string            // the publishing service; with ID the identity of the event
	Subject        string            // what the event is about ("booking/789"); the ordering key
	Time           time.Time         // when it happened, kept with nanoseconds
	CorrelationID  string            // shared by everything that one request caused; 1 to 128 visible ASCII characters
	CausationID    string            // ID of the event whose handling published this one
	OrganizationID string            // tenant
	UserID         string            // who caused it
	Header         map[string]string // traceparent, tracestate and the caller's own; nil where there is none
	ContentType    string            // of Data; "application/json" where Publish sets it
	Data           []byte            // the payload, byte for byte; where ContentType is JSON UTF-8, and nested at most 512 deep
}

// Stream returns the name of the stream that the event belongs to: the first segment of its type.
func (e Event) Stream() string { return StreamOf(e.Type) }

// ContentTypeJSON is the content type of an event that names none.
const ContentTypeJSON = "application/json"

// contentTypeBytes is that of a Watermill message that names none and can't be JSON.
const contentTypeBytes = "application/octet-stream"

// EventType is the contract of one kind of event, a package variable shared by those who publish it and those who
// handle it:
//
//	var BookingCreated = pipeline.EventType[Booking]{Name: "booking.created", Version: 1}
//
// Version is written to the header "eventversion" when it is above 0; a handler may look at it to tell old payloads apart.
type EventType[T any] struct {
	Name    string
	Version int
}

// HeaderVersion is the header that carries EventType.Version.
const HeaderVersion = "eventversion"

// New returns an event of this type with v as its JSON payload. It fails only where v can't be marshalled.
func (t EventType[T]) New(v T) (Event, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return Event{}, fmt.Errorf("encode payload of %s: %w", t.Name, err)
	}
	e := Event{Type: t.Name, ContentType: ContentTypeJSON, Data: data}
	if t.Version > 0 {
		e.Header = map[string]string{HeaderVersion: fmt.Sprint(t.Version)}
	}
	return e, nil
}

// Decode returns the payload of e. An error is always a *DecodeError: retrying never heals it.
func (t EventType[T]) Decode(e Event) (T, error) {
	var v T
	if e.Type != t.Name {
		return v, &DecodeError{ID: e.ID, Type: e.Type, Err: fmt.Errorf("want an event of type %s", t.Name)}
	}
	if len(e.Data) == 0 {
		return v, nil // an event without data has the zero payload
	}
	if err := json.Unmarshal(e.Data, &v); err != nil {
		return v, &DecodeError{ID: e.ID, Type: e.Type, Err: err}
	}
	return v, nil
}
