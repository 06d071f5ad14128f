package pipeline

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/rishi-platform/millrace/internal/redisstream"
)

// The metadata keys of the wire format (docs/wire.md). They and the two prefixes are reserved: a header of such a name is refused.
const (
	keyType         = "type"
	keySource       = "source"
	keySubject      = "subject"
	keyTime         = "time"
	keyCorrelation  = "correlation_id" // Watermill's own key
	keyCausation    = "causation_id"
	keyOrganization = "organization_id"
	keyUser         = "user_id"
	keyContentType  = "content_type"

	// HeaderTraceParent and HeaderTraceState carry the creation context of an event, W3C Trace Context. They stand in Event.Header.
	HeaderTraceParent = "traceparent"
	HeaderTraceState  = "tracestate"

	prefixMillrace  = "millrace_"
	prefixWatermill = "_watermill_"

	// What a message carries when it is sent again.
	keyPosition = prefixMillrace + "position" // of the event in its stream
	keyAttempt  = prefixMillrace + "attempt"
	keyCrashes  = prefixMillrace + "crashes"
	keyFirst    = prefixMillrace + "first" // when the first attempt began
	keyPutOffs  = prefixMillrace + "putoffs"
	keyOrigin   = prefixMillrace + "origin"
	keyHop      = prefixMillrace + "hop"
	keyPrevious = prefixMillrace + "prev"
	keyHandled  = prefixMillrace + "handled" // groups that have handled it, separated by commas
	keySpool    = prefixMillrace + "spool"   // record of a spool that the event stood in
)

var reservedHeaders = map[string]bool{
	keyType: true, keySource: true, keySubject: true, keyTime: true, keyCorrelation: true, keyCausation: true,
	keyOrganization: true, keyUser: true, keyContentType: true,
}

// CheckHeader returns an error that says why an event may not carry a header of this name, nil if it may.
func CheckHeader(name string) error {
	switch {
	case !visibleASCII(name, 256):
		return fmt.Errorf("name must be 1 to 256 visible ASCII characters")
	case reservedHeaders[name], strings.HasPrefix(name, prefixMillrace), strings.HasPrefix(name, prefixWatermill):
		return fmt.Errorf("name is reserved")
	}
	return nil
}

// ContentTypeFields is the content type of an event made of a foreign entry: a JSON array of [name, value] pairs.
const ContentTypeFields = "application/vnd.millrace.fields+json"

// encode returns the event as it is written to a stream, with extra metadata behind its own.
func encode(e *Event, extra ...redisstream.Pair) redisstream.Message {
	one := encoders.Get().(*encoder)
	defer one.free()
	one.add(e, extra...)
	m := one.messages()[0]
	m.UUID = e.ID
	return m
}

// encoder encodes the events of one call into one piece of memory.
type encoder struct {
	text []byte
	ends []int // in the text, of metadata and payload of each event
}

var encoders = sync.Pool{New: func() any { return new(encoder) }}

// maxPooled is the largest text that goes back to the pool: one huge event must not stay in memory for ever.
const maxPooled = 1 << 20

func (c *encoder) add(e *Event, extra ...redisstream.Pair) {
	c.text = appendMetadata(c.text, e, extra)
	c.ends = append(c.ends, len(c.text))
	c.text = append(c.text, e.Data...)
	c.ends = append(c.ends, len(c.text))
}

// messages returns what was encoded, without the UUIDs.
func (c *encoder) messages() []redisstream.Message {
	text, begin := string(c.text), 0
	messages := make([]redisstream.Message, len(c.ends)/2)
	for i := range messages {
		middle, end := c.ends[2*i], c.ends[2*i+1]
		messages[i].Metadata, messages[i].Payload = text[begin:middle], text[middle:end]
		begin = end
	}
	return messages
}

// free gives the encoder back to the pool.
func (c *encoder) free() {
	if cap(c.text) <= maxPooled {
		c.text, c.ends = c.text[:0], c.ends[:0]
		encoders.Put(c)
	}
}

// appendMetadata appends the metadata of an event. What is empty is left out, but for the publisher's own headers; so is the content type that
// nearly every event has, which costs each entry 30 bytes in the memory of Redis and is what its absence means.
func appendMetadata(dst []byte, e *Event, extra []redisstream.Pair) []byte {
	fixed := [...]redisstream.Pair{
		{Key: keyType, Value: e.Type}, {Key: keySource, Value: e.Source}, {Key: keySubject, Value: e.Subject}, {Key: keyTime},
		{Key: keyCorrelation, Value: e.CorrelationID}, {Key: keyCausation, Value: e.CausationID}, {Key: keyOrganization, Value: e.OrganizationID},
		{Key: keyUser, Value: e.UserID}, {Key: keyContentType, Value: e.ContentType},
		{Key: HeaderTraceParent, Value: e.Header[HeaderTraceParent]}, {Key: HeaderTraceState, Value: e.Header[HeaderTraceState]},
	}
	if e.ContentType == ContentTypeJSON {
		fixed[8].Value = ""
	}
	var at [len(time.RFC3339Nano)]byte
	fixed[3].Value = string(e.Time.UTC().AppendFormat(at[:0], time.RFC3339Nano)) // in UTC: an offset with seconds, as before 1900, would be cut
	var some [8]string
	own := some[:0]
	for name := range e.Header {
		if name != HeaderTraceParent && name != HeaderTraceState {
			own = append(own, name)
		}
	}
	slices.Sort(own)
	n := len(own) + len(extra)
	for i := range fixed {
		if fixed[i].Value != "" {
			n++
		}
	}
	dst = redisstream.AppendMapHeader(dst, n)
	for i := range fixed {
		if fixed[i].Value != "" {
			dst = redisstream.AppendPair(dst, fixed[i].Key, fixed[i].Value)
		}
	}
	for _, name := range own {
		dst = redisstream.AppendPair(dst, name, e.Header[name])
	}
	for _, p := range extra {
		dst = redisstream.AppendPair(dst, p.Key, p.Value)
	}
	return dst
}

// decoded is what an entry holds: the event, and what those who sent it again noted.
type decoded struct {
	Event
	foreign  bool     // the entry is not one of ours
	position Position // of the event in its stream; empty unless the entry is a copy
	attempt  int      // 1 for a fresh one
	crashes  int
	first    time.Time // zero for a fresh one
	putOffs  int
	origin   string
	hop      string
	previous string
	handled  string             // groups that have handled it
	spool    string             // record that the event stood in
	others   []redisstream.Pair // of names that are reserved and not known here: a newer version wrote them, and copies keep them
}

// decode reads an entry of a stream. It never fails: an entry of another software, or one whose metadata can't be read, becomes an
// event of the stream's name that holds the fields (RELIABILITY F01).
func (b *Bus) decode(stream string, entry redisstream.Entry) decoded {
	m, ours := entry.Message()
	if !ours {
		return b.foreign(stream, entry)
	}
	d := decoded{Event: Event{ID: m.UUID, Data: entry.Payload(m)}, attempt: 1}
	if err := redisstream.ReadMetadata(m.Metadata, d.set); err != nil {
		return b.foreign(stream, entry)
	}
	if !entry.Of.IsZero() {
		d.position = positionOf(entry.Of)
	}
	// What watermill-redisstream writes has no more than an ID and the publisher's own metadata.
	if d.ID == "" {
		d.ID = idOf(b.keyOf(stream), entry.ID)
	}
	setDefault(&d.Type, stream)
	setDefault(&d.Source, "watermill")
	setDefault(&d.ContentType, ContentTypeJSON)
	if d.Time.IsZero() {
		d.Time = storedAt(entry.ID)
	}
	return d
}

// handledBy reports whether a group has handled the event before it was in Redis.
func (d *decoded) handledBy(group string) bool {
	return d.handled != "" && slices.Contains(strings.Split(d.handled, ","), group)
}

func (d *decoded) set(key, value string) error {
	switch key {
	case keyType:
		d.Type = value
	case keySource:
		d.Source = value
	case keySubject:
		d.Subject = value
	case keyTime:
		at, err := time.Parse(time.RFC3339Nano, value)
		if err == nil {
			at, err = checkedTime(at)
		}
		if err == nil { // else the position tells the time
			d.Time = at
		}
	case keyCorrelation:
		d.CorrelationID = value
	case keyCausation:
		d.CausationID = value
	case keyOrganization:
		d.OrganizationID = value
	case keyUser:
		d.UserID = value
	case keyContentType:
		d.ContentType = value
	case keyPosition:
		d.position = Position(value)
	case keyAttempt:
		if n, err := strconv.Atoi(value); err == nil && n > 0 {
			d.attempt = n
		}
	case keyCrashes:
		if n, err := strconv.Atoi(value); err == nil && n > 0 {
			d.crashes = n
		}
	case keyFirst:
		if at, err := time.Parse(time.RFC3339Nano, value); err == nil {
			d.first = at
		}
	case keyPutOffs:
		if n, err := strconv.Atoi(value); err == nil && n > 0 {
			d.putOffs = n
		}
	case keyOrigin:
		d.origin = value
	case keyHop:
		d.hop = value
	case keyPrevious:
		d.previous = value
	case keyHandled:
		d.handled = value
	case keySpool:
		d.spool = value
	default:
		if strings.HasPrefix(key, prefixMillrace) {
			d.others = append(d.others, redisstream.Pair{Key: key, Value: value})
		} else {
			if d.Header == nil {
				d.Header = map[string]string{}
			}
			d.Header[key] = value
		}
	}
	return nil
}

// foreign makes an event of an entry that is not ours.
func (b *Bus) foreign(stream string, entry redisstream.Entry) decoded {
	key := b.keyOf(stream)
	fields := entry.Fields()
	pairs := make([][2]string, 0, len(fields)/2)
	for i := 0; i+1 < len(fields); i += 2 {
		pairs = append(pairs, [2]string{printable(fields[i]), printable(fields[i+1])})
	}
	data, _ := json.Marshal(pairs) // strings always marshal
	return decoded{foreign: true, attempt: 1, Event: Event{
		ID:          idOf(key, entry.ID),
		Type:        stream,
		Source:      "redis:" + key,
		Time:        storedAt(entry.ID),
		ContentType: ContentTypeFields,
		Data:        data,
	}}
}

// keyOf is the key of a stream in Redis.
func (b *Bus) keyOf(stream string) string {
	if b.cfg.Namespace == "" {
		return stream
	}
	return b.cfg.Namespace + ":" + stream
}

// idOf is the event ID of an entry that carries none: the same wherever and whenever it is read.
func idOf(key string, id redisstream.ID) string {
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte("redis:"+key+"/"+id.String())).String()
}

// lastMS is the last millisecond that RFC 3339 can tell, whose years have four digits: 9999-12-31T23:59:59.999Z.
const lastMS = 253_402_300_799_999

// storedAt is the time of a position. Entry IDs that other software chose may lie beyond what RFC 3339 can tell (microseconds do): an
// event of such a time could not be written as JSON, and would make a whole page of history fail.
func storedAt(id redisstream.ID) time.Time { return time.UnixMilli(int64(min(id.MS, lastMS))).UTC() }

func printable(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return base64.StdEncoding.EncodeToString([]byte(s))
}
