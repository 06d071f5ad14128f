package wire

import (
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// Encode returns the event as it is written to a stream, with extra metadata behind its own.
func Encode(e *Event, extra ...redisstream.Pair) redisstream.Message {
	one := NewEncoder()
	defer one.Free()
	one.Add(e, extra...)
	m := one.Messages()[0]
	m.UUID = e.ID
	return m
}

// Encoder encodes the events of one call into one piece of memory.
type Encoder struct {
	text []byte
	ends []int // in the text, of metadata and payload of each event
}

// NewEncoder returns an encoder, which Free gives back.
func NewEncoder() *Encoder { return encoders.Get().(*Encoder) }

var encoders = sync.Pool{New: func() any { return new(Encoder) }}

// maxPooled is the largest text that goes back to the pool: one huge event must not stay in memory for ever.
const maxPooled = 1 << 20

// Add encodes an event, with extra metadata behind its own.
func (c *Encoder) Add(e *Event, extra ...redisstream.Pair) {
	c.text = appendMetadata(c.text, e, extra)
	c.ends = append(c.ends, len(c.text))
	c.text = append(c.text, e.Data...)
	c.ends = append(c.ends, len(c.text))
}

// Messages returns what was encoded, without the UUIDs.
func (c *Encoder) Messages() []redisstream.Message {
	text, begin := string(c.text), 0
	messages := make([]redisstream.Message, len(c.ends)/2)
	for i := range messages {
		middle, end := c.ends[2*i], c.ends[2*i+1]
		messages[i].Metadata, messages[i].Payload = text[begin:middle], text[middle:end]
		begin = end
	}
	return messages
}

// Free gives the encoder back to the pool.
func (c *Encoder) Free() {
	if cap(c.text) <= maxPooled {
		c.text, c.ends = c.text[:0], c.ends[:0]
		encoders.Put(c)
	}
}

// appendMetadata appends the metadata of an event. What is empty is left out, but for the publisher's own headers; so is the content type that
// nearly every event has, which costs each entry 30 bytes in the memory of Redis and is what its absence means.
func appendMetadata(dst []byte, e *Event, extra []redisstream.Pair) []byte {
	fixed := [...]redisstream.Pair{
		{Key: KeyType, Value: e.Type}, {Key: KeySource, Value: e.Source}, {Key: KeySubject, Value: e.Subject}, {Key: KeyTime},
		{Key: KeyCorrelation, Value: e.CorrelationID}, {Key: KeyCausation, Value: e.CausationID}, {Key: KeyOrganization, Value: e.OrganizationID},
		{Key: KeyUser, Value: e.UserID}, {Key: KeyContentType, Value: e.ContentType},
		{Key: keyTraceParent, Value: e.Header[keyTraceParent]}, {Key: keyTraceState, Value: e.Header[keyTraceState]},
	}
	if e.ContentType == contentTypeJSON {
		fixed[8].Value = ""
	}
	var at [len(time.RFC3339Nano)]byte
	fixed[3].Value = string(e.Time.UTC().AppendFormat(at[:0], time.RFC3339Nano)) // in UTC: an offset with seconds, as before 1900, would be cut
	var some [8]string
	own := some[:0]
	for name := range e.Header {
		if name != keyTraceParent && name != keyTraceState {
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

// Again returns the event as a copy that arrives later: it keeps its identity and the position of the
// original, which stands at the given ID where the entry is no copy itself.
func Again(at redisstream.ID, e *Decoded, attempt int, origin string) redisstream.Message {
	position := e.Position
	if position == "" {
		position = at.String()
	}
	extra := []redisstream.Pair{{Key: KeyPosition, Value: position}, {Key: KeyAttempt, Value: strconv.Itoa(attempt)}}
	crashes, first, putOffs := "", "", ""
	if e.Crashes > 0 {
		crashes = strconv.Itoa(e.Crashes)
	}
	if e.PutOffs > 0 {
		putOffs = strconv.Itoa(e.PutOffs)
	}
	if !e.First.IsZero() {
		first = e.First.UTC().Format(time.RFC3339Nano)
	}
	for _, p := range [...]redisstream.Pair{
		{Key: KeyCrashes, Value: crashes}, {Key: KeyFirst, Value: first}, {Key: KeyPutOffs, Value: putOffs},
		{Key: KeyOrigin, Value: origin}, {Key: KeyHop, Value: e.Hop}, {Key: KeyPrevious, Value: e.Previous},
	} {
		if p.Value != "" {
			extra = append(extra, p)
		}
	}
	return Encode(&e.Event, append(extra, e.Others...)...)
}

// Metadata is the event as the metadata of a Watermill message.
func Metadata(e *Event) map[string]string {
	m := make(map[string]string, 9+len(e.Header))
	maps.Copy(m, e.Header)
	for _, p := range [...]redisstream.Pair{
		{Key: KeyType, Value: e.Type}, {Key: KeySource, Value: e.Source}, {Key: KeySubject, Value: e.Subject},
		{Key: KeyTime, Value: e.Time.Format(time.RFC3339Nano)}, {Key: KeyCorrelation, Value: e.CorrelationID}, {Key: KeyCausation, Value: e.CausationID},
		{Key: KeyOrganization, Value: e.OrganizationID}, {Key: KeyUser, Value: e.UserID}, {Key: KeyContentType, Value: e.ContentType},
	} {
		if p.Value != "" {
			m[p.Key] = p.Value
		}
	}
	return m
}
