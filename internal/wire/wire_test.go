package wire

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/rishi-platform/millrace/internal/redisstream"
)

// The bytes below are frozen (docs/wire.md): other software reads and writes them, and a stream holds what older versions wrote. They are
// written out by hand, and nothing rewrites them.

// fullEvent has every field set, with text of each length at which msgpack changes its form.
func fullEvent() Event {
	return Event{
		ID: "0193e5a0-7c00-7000-8000-000000000001", Type: "booking.created", Source: "shop", Subject: "booking/789",
		Time:          time.Date(2026, 11, 24, 10, 0, 0, 123456789, time.UTC),
		CorrelationID: "req-42", CausationID: "e-0", OrganizationID: "org-7", UserID: "Grüße",
		Header: map[string]string{
			keyTraceState: "vendor=1", keyTraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
			"empty": "", "X-Note": strings.Repeat("n", 300), "bytes": "\x00\xff",
		},
		ContentType: "application/yaml",
		Data:        []byte(`{"id": 789}`),
	}
}

// acme reads entries as the bus of a namespace does.
var acme = Format{Namespace: "acme"}

const (
	fullUUID = "0193e5a0-7c00-7000-8000-000000000001"

	// fullPairs are the 14 pairs of the event: the fields in their order, then the headers, those of W3C first and the others by name.
	fullPairs = "\xa4type\xafbooking.created" +
		"\xa6source\xa4shop" +
		"\xa7subject\xabbooking/789" +
		"\xa4time\xbe2026-11-24T10:00:00.123456789Z" +
		"\xaecorrelation_id\xa6req-42" +
		"\xaccausation_id\xa3e-0" +
		"\xaforganization_id\xa5org-7" +
		"\xa7user_id\xa7Gr\xc3\xbc\xc3\x9fe" +
		"\xaccontent_type\xb0application/yaml" +
		"\xabtraceparent\xd9\x3700-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" +
		"\xaatracestate\xa8vendor=1" +
		"\xa6X-Note\xda\x01\x2c" + fullNote +
		"\xa5bytes\xa2\x00\xff" +
		"\xa5empty\xa0"
	fullNote = note50 + note50 + note50 + note50 + note50 + note50

	note50 = "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"

	fullMetadata = "\x8e" + fullPairs
	fullPayload  = `{"id": 789}`

	fullPosition = "1764000000000-7"
)

// fieldsOf are the fields of an entry, in their order.
func fieldsOf(uuid, metadata, payload string) []string {
	return []string{"_watermill_message_uuid", uuid, "metadata", metadata, "payload", payload}
}

func entryOf(fields ...string) redisstream.Entry {
	return redisstream.NewEntry(redisstream.ID{MS: 1764000000000, Seq: 7}, fields)
}

func TestBytesOfAnEvent(t *testing.T) {
	t.Parallel()
	e := fullEvent()
	got := Encode(&e).Entry(redisstream.ID{}).Fields()
	if diff := cmp.Diff(fieldsOf(fullUUID, fullMetadata, fullPayload), got); diff != "" {
		t.Errorf("written (-want +got):\n%s", diff)
	}
	d := acme.Decode("booking", entryOf(got...))
	if diff := cmp.Diff(fullEvent(), d.Event); diff != "" {
		t.Errorf("read (-want +got):\n%s", diff)
	}
	if d.Attempt != 1 || d.Position != "" || d.Origin != "" || d.Hop != "" || d.Previous != "" {
		t.Errorf("a fresh event is read with notes: %+v", d)
	}
}

func TestBytesOfACopy(t *testing.T) {
	t.Parallel()
	first := time.Date(2026, 11, 26, 8, 0, 0, 500, time.UTC)
	const hop, previous = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01", "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b8-00"
	const want = "\xde\x00\x17" + fullPairs +
		"\xb1millrace_position\xaf1764000000000-7" +
		"\xb0millrace_attempt\xa212" +
		"\xb0millrace_crashes\xa12" +
		"\xaemillrace_first\xbc2026-11-26T08:00:00.0000005Z" +
		"\xb0millrace_putoffs\xa3107" +
		"\xafmillrace_origin\xa6replay" +
		"\xacmillrace_hop\xd9\x37" + hop +
		"\xadmillrace_prev\xd9\x37" + previous +
		"\xb0millrace_newer__\xa7billing" // of a newer version: carried on
	newer := []redisstream.Pair{{Key: "millrace_newer__", Value: "billing"}}
	got := Again(redisstream.ID{MS: 1764000000000, Seq: 7}, &Decoded{Event: fullEvent(), Crashes: 2, First: first, PutOffs: 107, Hop: hop, Previous: previous, Others: newer}, 12, "replay")
	if diff := cmp.Diff(want, string(got.Metadata)); diff != "" {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
	d := acme.Decode("booking", got.Entry(redisstream.ID{MS: 1, Seq: 1}))
	if diff := cmp.Diff(fullEvent(), d.Event); diff != "" {
		t.Errorf("read (-want +got):\n%s", diff)
	}
	if d.Position != fullPosition || d.Attempt != 12 || d.Crashes != 2 || !d.First.Equal(first) || d.PutOffs != 107 || d.Origin != "replay" || d.Hop != hop || d.Previous != previous || !slices.Equal(d.Others, newer) {
		t.Errorf("notes were read as %+v", d)
	}
	// A copy of a copy still names the place of the event, not that of the copy.
	again := Again(redisstream.ID{MS: 2}, &d, 13, "retry")
	if d := acme.Decode("booking", again.Entry(redisstream.ID{MS: 2})); d.Position != fullPosition || d.Attempt != 13 {
		t.Errorf("copy of a copy: position %s, attempt %d, want %s, 13", d.Position, d.Attempt, fullPosition)
	}
}

// What is empty is not written, and an event without data has an empty payload.
func TestBytesOfTheLeastEvent(t *testing.T) {
	t.Parallel()
	offset := time.Date(1890, 1, 1, 0, 0, 0, 0, time.FixedZone("LMT", 1172)) // 19 min 32 s east: no RFC 3339 offset is that precise
	e := Event{ID: "e-1", Type: "ping", Source: "s", Time: offset, CorrelationID: "c", ContentType: "application/json"}
	want := fieldsOf("e-1", "\x84"+"\xa4type\xa4ping"+"\xa6source\xa1s"+"\xa4time\xb41889-12-31T23:40:28Z"+"\xaecorrelation_id\xa1c", "")
	if diff := cmp.Diff(want, Encode(&e).Entry(redisstream.ID{}).Fields()); diff != "" {
		t.Errorf("written (-want +got):\n%s", diff)
	}
}

// What is read without complaint although Millrace does not write it so.
func TestIsReadLeniently(t *testing.T) {
	t.Parallel()
	bare := Event{
		ID: "m-1", Type: "booking", Source: "watermill", Time: time.UnixMilli(1764000000000).UTC(),
		ContentType: "application/json", Data: []byte("p"),
	}
	with := func(change func(e *Event)) Event {
		e := bare
		e.Header = map[string]string{}
		change(&e)
		return e
	}
	for name, test := range map[string]struct {
		fields []string
		want   Event
	}{
		"metadata of no bytes":   {fieldsOf("m-1", "", "p"), bare},
		"metadata that is nil":   {fieldsOf("m-1", "\xc0", "p"), bare},
		"empty map":              {fieldsOf("m-1", "\x80", "p"), bare},
		"no metadata":            {[]string{"_watermill_message_uuid", "m-1", "payload", "p"}, bare},
		"no payload":             {[]string{"_watermill_message_uuid", "m-1", "metadata", "\x80"}, with(func(e *Event) { e.Data = nil })},
		"another order":          {[]string{"payload", "p", "metadata", "\x80", "_watermill_message_uuid", "m-1"}, bare},
		"further fields":         {append(fieldsOf("m-1", "\x80", "p"), "trace", "1"), bare},
		"field twice":            {append(fieldsOf("other", "\x80", "q"), fieldsOf("m-1", "", "p")...), bare},
		"empty ID":               {fieldsOf("", "", "p"), with(func(e *Event) { e.ID = "15c546a6-5dda-5fe4-b1cf-d69f7fa11c69" })},
		"ID as it is":            {fieldsOf("my id \xff", "", "p"), with(func(e *Event) { e.ID = "my id \xff" })},
		"map 16":                 {fieldsOf("m-1", "\xde\x00\x01\xa7subject\xa1s", "p"), with(func(e *Event) { e.Subject = "s" })},
		"map 32":                 {fieldsOf("m-1", "\xdf\x00\x00\x00\x01\xa7subject\xa1s", "p"), with(func(e *Event) { e.Subject = "s" })},
		"binaries":               {fieldsOf("m-1", "\x83\xc4\x07subject\xc4\x01s\xc5\x00\x07user_id\xc5\x00\x01u\xc6\x00\x00\x00\x01k\xc6\x00\x00\x00\x01v", "p"), with(func(e *Event) { e.Subject, e.UserID, e.Header["k"] = "s", "u", "v" })},
		"longer forms":           {fieldsOf("m-1", "\x83\xd9\x07subject\xd9\x01s\xda\x00\x07user_id\xda\x00\x01u\xdb\x00\x00\x00\x01k\xdb\x00\x00\x00\x01v", "p"), with(func(e *Event) { e.Subject, e.UserID, e.Header["k"] = "s", "u", "v" })},
		"value that is nil":      {fieldsOf("m-1", "\x82\xa7subject\xc0\xa1k\xc0", "p"), with(func(e *Event) { e.Header = map[string]string{"k": ""} })},
		"key twice":              {fieldsOf("m-1", "\x82\xa1k\xa11\xa1k\xa12", "p"), with(func(e *Event) { e.Header["k"] = "2" })},
		"empty defaults":         {fieldsOf("m-1", "\x83\xa4type\xa0\xa6source\xa0\xaccontent_type\xa0", "p"), bare},
		"type of another":        {fieldsOf("m-1", "\x81\xa4type\xaeinvoice.issued", "p"), with(func(e *Event) { e.Type = "invoice.issued" })},
		"time with an offset":    {fieldsOf("m-1", "\x81\xa4time\xb92026-11-24T10:00:00+02:00", "p"), with(func(e *Event) { e.Time = time.Date(2026, 11, 24, 8, 0, 0, 0, time.UTC) })},
		"time that is none":      {fieldsOf("m-1", "\x81\xa4time\xa9yesterday", "p"), bare},
		"time of the year 10000": {fieldsOf("m-1", "\x81\xa4time\xb99999-12-31T23:00:00-02:00", "p"), bare},
		"attempt that is none":   {fieldsOf("m-1", "\x81\xb0millrace_attempt\xa1x", "p"), bare},
		"keys of later":          {fieldsOf("m-1", "\x83\xb0millrace_crashes\xa11\xaemillrace_first\xa11\xb0millrace_handled\xa11", "p"), bare},
		"keys of watermill":      {fieldsOf("m-1", "\x81\xac_watermill_x\xa11", "p"), with(func(e *Event) { e.Header["_watermill_x"] = "1" })},
	} {
		got := acme.Decode("booking", entryOf(test.fields...))
		if diff := cmp.Diff(test.want, got.Event, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if got.Attempt != 1 {
			t.Errorf("%s: attempt %d, want 1", name, got.Attempt)
		}
	}
}

// An entry without our UUID field, or with metadata that can't be read, is an event that holds its fields.
func TestOfForeignEntries(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fields []string
		data   string
	}{
		"text":                   {[]string{"hello", "world"}, `[["hello","world"]]`},
		"order and duplicates":   {[]string{"b", "1", "a", "1", "a", "2"}, `[["b","1"],["a","1"],["a","2"]]`},
		"nothing":                {[]string{"", ""}, `[["",""]]`},
		"no UTF-8 is base64":     {[]string{"\xff\x00", "a\xc3"}, `[["/wA=","YcM="]]`},
		"each string by itself":  {[]string{"\xff", "ü\x00\"\\\n"}, `[["/w==","ü\u0000\"\\\n"]]`},
		"escapes of Go":          {[]string{"<b>&", "\u2028"}, `[["\u003cb\u003e\u0026","\u2028"]]`},
		"envelope without UUID":  {[]string{"metadata", "\x80", "payload", "p"}, `[["metadata","gA=="],["payload","p"]]`},
		"metadata of JSON":       {fieldsOf("m-1", `{"type":"a"}`, "p"), `[["_watermill_message_uuid","m-1"],["metadata","{\"type\":\"a\"}"],["payload","p"]]`},
		"metadata that is cut":   {fieldsOf("m-1", "\x81\xa4type", "p"), `[["_watermill_message_uuid","m-1"],["metadata","gaR0eXBl"],["payload","p"]]`},
		"metadata that goes on":  {fieldsOf("m-1", "\x80\x80", "p"), `[["_watermill_message_uuid","m-1"],["metadata","gIA="],["payload","p"]]`},
		"metadata of other kind": {fieldsOf("m-1", "\x81\xa1k\x01", "p"), `[["_watermill_message_uuid","m-1"],["metadata","gaFrAQ=="],["payload","p"]]`},
	} {
		// The IDs are UUIDv5 in the namespace of URLs, as Python says: uuid.uuid5(uuid.NAMESPACE_URL, "redis:acme:booking/1764000000000-7").
		for namespace, place := range map[string]struct{ id, source string }{
			"acme": {"15c546a6-5dda-5fe4-b1cf-d69f7fa11c69", "redis:acme:booking"},
			"":     {"039c3f6a-aa81-5b1e-bb27-42b3f836c362", "redis:booking"},
		} {
			want := Event{
				ID: place.id, Type: "booking", Source: place.source, Time: time.Date(2025, 11, 24, 16, 0, 0, 0, time.UTC),
				ContentType: "application/vnd.millrace.fields+json", Data: []byte(test.data),
			}
			got := Format{Namespace: namespace}.Decode("booking", entryOf(test.fields...))
			if diff := cmp.Diff(want, got.Event); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
			if got.Attempt != 1 || got.Position != "" {
				t.Errorf("%s: attempt %d, position %q, want 1 and none", name, got.Attempt, got.Position)
			}
		}
	}
}

// A position may lie beyond the times that RFC 3339 can tell: then the event has the last of these.
func TestTimeOfAPositionBeyondAllYears(t *testing.T) {
	t.Parallel()
	last := time.Date(9999, 12, 31, 23, 59, 59, 999_000_000, time.UTC)
	for _, ms := range []uint64{253_402_300_799_999, 253_402_300_800_000, 1_764_000_000_000_000, redisstream.MaxID.MS} {
		entry := redisstream.NewEntry(redisstream.ID{MS: ms}, []string{"a", "1"})
		if got := (Format{}).Decode("t", entry).Time; !got.Equal(last) {
			t.Errorf("%d ms: time %v, want %v", ms, got, last)
		}
	}
}
