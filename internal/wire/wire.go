// Package wire turns events into the entries of streams and back (docs/wire.md).
package wire

import (
	"strings"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// Event is an event: the fields are those of pipeline.Event, so one converts into the other.
type Event struct {
	ID             string
	Type           string
	Source         string
	Subject        string
	Time           time.Time
	CorrelationID  string
	CausationID    string
	OrganizationID string
	UserID         string
	Header         map[string]string
	ContentType    string
	Data           []byte
}

// Decoded is what an entry holds: the event, and what those who sent it again noted.
type Decoded struct {
	Event
	Foreign  bool   // the entry is not one of ours
	Position string // of the event in its stream; empty unless the entry is a copy
	Attempt  int    // 1 for a fresh one
	Crashes  int
	First    time.Time // zero for a fresh one
	PutOffs  int
	Origin   string
	Hop      string
	Previous string
	Handled  string             // groups that have handled it
	Spool    string             // record that the event stood in
	Others   []redisstream.Pair // of names that are reserved and not known here: a newer version wrote them, and copies keep them
}

// The metadata keys of the wire format (docs/wire.md). They and the two prefixes are reserved: a header of such a name is refused.
const (
	KeyType         = "type"
	KeySource       = "source"
	KeySubject      = "subject"
	KeyTime         = "time"
	KeyCorrelation  = "correlation_id" // Watermill's own key
	KeyCausation    = "causation_id"
	KeyOrganization = "organization_id"
	KeyUser         = "user_id"
	KeyContentType  = "content_type"

	keyTraceParent = "traceparent"
	keyTraceState  = "tracestate"

	PrefixMillrace  = "millrace_"
	PrefixWatermill = "_watermill_"

	// What a message carries when it is sent again.
	KeyPosition = PrefixMillrace + "position" // of the event in its stream
	KeyAttempt  = PrefixMillrace + "attempt"
	KeyCrashes  = PrefixMillrace + "crashes"
	KeyFirst    = PrefixMillrace + "first" // when the first attempt began
	KeyPutOffs  = PrefixMillrace + "putoffs"
	KeyOrigin   = PrefixMillrace + "origin"
	KeyHop      = PrefixMillrace + "hop"
	KeyPrevious = PrefixMillrace + "prev"
	KeyHandled  = PrefixMillrace + "handled" // groups that have handled it, separated by commas
	KeySpool    = PrefixMillrace + "spool"   // record of a spool that the event stood in
)

var reservedHeaders = map[string]bool{
	KeyType: true, KeySource: true, KeySubject: true, KeyTime: true, KeyCorrelation: true, KeyCausation: true,
	KeyOrganization: true, KeyUser: true, KeyContentType: true,
}

// IsReserved reports whether no header of an event may have this name.
func IsReserved(name string) bool {
	return reservedHeaders[name] || strings.HasPrefix(name, PrefixMillrace) || strings.HasPrefix(name, PrefixWatermill)
}

const (
	contentTypeJSON   = "application/json" // of what names none
	contentTypeFields = "application/vnd.millrace.fields+json"
)
