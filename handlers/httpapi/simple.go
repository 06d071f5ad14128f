package httpapi

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/rishi-platform/millrace/pipeline"
)

// simpleEvent is the simple form of an event. parseSimple reads its fields one by one, which matches names exactly.
type simpleEvent struct {
	ID             string            `json:"id,omitempty" doc:"1 to 256 visible ASCII characters; made where it is missing"`
	Type           string            `json:"type" doc:"dotted lower-case name, as booking.created"`
	Source         string            `json:"source,omitempty" doc:"the publishing service"`
	Payload        json.RawMessage   `json:"payload,omitempty" doc:"any JSON value, kept byte for byte"`
	ContentType    string            `json:"contentType,omitempty" doc:"of the payload; default application/json"`
	Subject        string            `json:"subject,omitempty" doc:"what it is about; events of one subject keep their order"`
	UserID         string            `json:"userId,omitempty" doc:"who caused it"`
	OrganizationID string            `json:"organizationId,omitempty" doc:"tenant"`
	CorrelationID  string            `json:"correlationId,omitempty" doc:"shared by all that one request caused; default: that of this request"`
	CausationID    string            `json:"causationId,omitempty" doc:"ID of the event that led to this one"`
	Timestamp      time.Time         `json:"timestamp,omitzero" doc:"when it happened, RFC 3339; default now"`
	Metadata       map[string]string `json:"metadata,omitempty" doc:"headers of the event"`
	Options        *publishOptions   `json:"options,omitempty" doc:"the same for all events of a request"`
}

// publishOptions vary how an event is published.
type publishOptions struct {
	LocalOnly    bool `json:"localOnly,omitempty" doc:"to the subscriptions of this process only"`
	RedisOnly    bool `json:"redisOnly,omitempty" doc:"to Redis only, never kept elsewhere"`
	WaitReplicas int  `json:"waitReplicas,omitempty" doc:"only 0 is supported"`
}

// parseSimple reads one event of the simple form. A field that is null is absent, except for the payload: null is a JSON value.
func parseSimple(text []byte, where place) (pipeline.Event, pipeline.Scope, []fault) {
	fields, faults := members(text, where)
	if fields == nil {
		return pipeline.Event{}, pipeline.Everywhere, faults
	}
	var s simpleEvent
	var metadata, options json.RawMessage
	faults = append(faults, fill(fields, where, map[string]any{
		"id": &s.ID, "type": &s.Type, "source": &s.Source, "contentType": &s.ContentType, "subject": &s.Subject, "userId": &s.UserID,
		"organizationId": &s.OrganizationID, "correlationId": &s.CorrelationID, "causationId": &s.CausationID, "timestamp": &s.Timestamp,
		"metadata": &metadata, "options": &options, "payload": &s.Payload,
	})...)
	if isNull(fields["type"]) {
		faults = append(faults, fault{where.of("type"), "is required"})
	}
	var wrong []fault
	s.Metadata, wrong = parseMetadata(metadata, where.of("metadata"))
	faults = append(faults, wrong...)
	scope, wrong := parseOptions(options, place{where.of("options"), "."})
	return pipeline.Event{
		ID: s.ID, Type: s.Type, Source: s.Source, Subject: s.Subject, Time: s.Timestamp, CorrelationID: s.CorrelationID, CausationID: s.CausationID,
		OrganizationID: s.OrganizationID, UserID: s.UserID, Header: s.Metadata, ContentType: s.ContentType, Data: s.Payload,
	}, scope, append(faults, wrong...)
}

// fill sets each target to the field of its name. One that is null is left as it is.
func fill(fields map[string]json.RawMessage, where place, targets map[string]any) []fault {
	var faults []fault
	known := strings.Join(slices.Sorted(maps.Keys(targets)), ", ")
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		value, target := fields[name], targets[name]
		if raw, ok := target.(*json.RawMessage); ok {
			*raw = value // as it stands there, null included
			continue
		}
		switch {
		case target == nil:
			faults = append(faults, fault{where.whole, "has an unknown field" + named(name) + "; known are " + known})
		case !isNull(value) && json.Unmarshal(value, target) != nil:
			faults = append(faults, fault{where.of(name), "want " + kindOf(target)})
		}
	}
	return faults
}

// fieldName is what the name of a field may look like that is repeated to whoever has sent it: anything else may be what nobody should see.
var fieldName = regexp.MustCompile(`^[A-Za-z][A-Za-z_-]{0,31}$`)

func named(name string) string {
	if !fieldName.MatchString(name) {
		return ""
	}
	return " " + name
}

func kindOf(target any) string {
	switch target.(type) {
	case *time.Time:
		return "a time as in RFC 3339"
	case *bool:
		return "true or false"
	case *int:
		return "a whole number"
	}
	return "a string"
}

// parseMetadata reads an object of strings. encoding/json would take null for an empty one.
func parseMetadata(text json.RawMessage, at string) (map[string]string, []fault) {
	if isNull(text) {
		return nil, nil
	}
	fields, faults := members(text, place{at, "."})
	metadata := map[string]string{}
	for name, value := range fields {
		var s string
		if isNull(value) || json.Unmarshal(value, &s) != nil {
			faults = append(faults, fault{at, "want an object of strings"})
		}
		metadata[name] = s
	}
	return metadata, faults
}

func parseOptions(text json.RawMessage, where place) (pipeline.Scope, []fault) {
	if isNull(text) {
		return pipeline.Everywhere, nil
	}
	fields, faults := members(text, where)
	var o publishOptions
	faults = append(faults, fill(fields, where, map[string]any{"localOnly": &o.LocalOnly, "redisOnly": &o.RedisOnly, "waitReplicas": &o.WaitReplicas})...)
	switch {
	case o.LocalOnly && o.RedisOnly:
		faults = append(faults, fault{where.whole, "localOnly and redisOnly exclude each other"})
	case o.WaitReplicas != 0:
		faults = append(faults, fault{where.of("waitReplicas"), "only 0 is supported"})
	case o.LocalOnly:
		return pipeline.LocalOnly, faults
	case o.RedisOnly:
		return pipeline.RedisOnly, faults
	}
	return pipeline.Everywhere, faults
}
