package wire

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/rishi-platform/millrace/internal/redisstream"
)

// Format reads the entries of the streams of a namespace.
type Format struct{ Namespace string }

// Decode reads an entry of a stream. It never fails: an entry of another software, or one whose metadata can't be read, becomes an
// event of the stream's name that holds the fields (RELIABILITY F01).
func (f Format) Decode(stream string, entry redisstream.Entry) Decoded {
	m, ours := entry.Message()
	if !ours {
		return f.foreign(stream, entry)
	}
	d := Decoded{Event: Event{ID: m.UUID, Data: entry.Payload(m)}, Attempt: 1}
	if err := redisstream.ReadMetadata(m.Metadata, d.Set); err != nil {
		return f.foreign(stream, entry)
	}
	if !entry.Of.IsZero() {
		d.Position = entry.Of.String()
	}
	// What watermill-redisstream writes has no more than an ID and the publisher's own metadata.
	if d.ID == "" {
		d.ID = idOf(f.Key(stream), entry.ID)
	}
	d.Type = cmp.Or(d.Type, stream)
	d.Source = cmp.Or(d.Source, "watermill")
	d.ContentType = cmp.Or(d.ContentType, contentTypeJSON)
	if d.Time.IsZero() {
		d.Time = storedAt(entry.ID)
	}
	return d
}

// HandledBy reports whether a group has handled the event before it was in Redis.
func (d *Decoded) HandledBy(group string) bool {
	return d.Handled != "" && slices.Contains(strings.Split(d.Handled, ","), group)
}

// Set takes one pair of metadata. It never fails.
func (d *Decoded) Set(key, value string) error {
	switch key {
	case KeyType:
		d.Type = value
	case KeySource:
		d.Source = value
	case KeySubject:
		d.Subject = value
	case KeyTime:
		at, err := time.Parse(time.RFC3339Nano, value)
		if err == nil {
			at, err = CheckedTime(at)
		}
		if err == nil { // else the position tells the time
			d.Time = at
		}
	case KeyCorrelation:
		d.CorrelationID = value
	case KeyCausation:
		d.CausationID = value
	case KeyOrganization:
		d.OrganizationID = value
	case KeyUser:
		d.UserID = value
	case KeyContentType:
		d.ContentType = value
	case KeyPosition:
		d.Position = value
	case KeyAttempt:
		if n, err := strconv.Atoi(value); err == nil && n > 0 {
			d.Attempt = n
		}
	case KeyCrashes:
		if n, err := strconv.Atoi(value); err == nil && n > 0 {
			d.Crashes = n
		}
	case KeyFirst:
		if at, err := time.Parse(time.RFC3339Nano, value); err == nil {
			d.First = at
		}
	case KeyPutOffs:
		if n, err := strconv.Atoi(value); err == nil && n > 0 {
			d.PutOffs = n
		}
	case KeyOrigin:
		d.Origin = value
	case KeyHop:
		d.Hop = value
	case KeyPrevious:
		d.Previous = value
	case KeyHandled:
		d.Handled = value
	case KeySpool:
		d.Spool = value
	default:
		if strings.HasPrefix(key, PrefixMillrace) {
			d.Others = append(d.Others, redisstream.Pair{Key: key, Value: value})
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
func (f Format) foreign(stream string, entry redisstream.Entry) Decoded {
	key := f.Key(stream)
	fields := entry.Fields()
	pairs := make([][2]string, 0, len(fields)/2)
	for i := 0; i+1 < len(fields); i += 2 {
		pairs = append(pairs, [2]string{printable(fields[i]), printable(fields[i+1])})
	}
	data, _ := json.Marshal(pairs) // strings always marshal
	return Decoded{Foreign: true, Attempt: 1, Event: Event{
		ID:          idOf(key, entry.ID),
		Type:        stream,
		Source:      "redis:" + key,
		Time:        storedAt(entry.ID),
		ContentType: contentTypeFields,
		Data:        data,
	}}
}

// Key is the key of a stream in Redis.
func (f Format) Key(stream string) string {
	if f.Namespace == "" {
		return stream
	}
	return f.Namespace + ":" + stream
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

// CheckedTime returns the time in UTC if RFC 3339 can tell it, which has four digits for a year.
func CheckedTime(at time.Time) (time.Time, error) {
	at = at.UTC()
	if year := at.Year(); year < 0 || year > 9999 {
		return at, fmt.Errorf("year %d is outside of 0 to 9999", year)
	}
	return at, nil
}
