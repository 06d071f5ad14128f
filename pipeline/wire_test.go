package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/redis/go-redis/v9"
	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/redistest"
)

// The bytes below are frozen (docs/wire.md): other software reads and writes them, and a stream holds what older versions wrote. They are
// written out by hand, and nothing rewrites them.

// wireEvent has every field set, with text of each length at which msgpack changes its form.
func wireEvent() Event {
	return Event{
		ID: "0193e5a0-7c00-7000-8000-000000000001", Type: "booking.created", Source: "shop", Subject: "booking/789",
		Time:          time.Date(2026, 11, 24, 10, 0, 0, 123456789, time.UTC),
		CorrelationID: "req-42", CausationID: "e-0", OrganizationID: "org-7", UserID: "Grüße",
		Header: map[string]string{
			HeaderTraceState: "vendor=1", HeaderTraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
			"empty": "", "X-Note": strings.Repeat("n", 300), "bytes": "\x00\xff",
		},
		ContentType: "application/yaml",
		Data:        []byte(`{"id": 789}`),
	}
}

const (
	wireUUID = "0193e5a0-7c00-7000-8000-000000000001"

	// wirePairs are the 14 pairs of the event: the fields in their order, then the headers, those of W3C first and the others by name.
	wirePairs = "\xa4type\xafbooking.created" +
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
		"\xa6X-Note\xda\x01\x2c" + wireNote +
		"\xa5bytes\xa2\x00\xff" +
		"\xa5empty\xa0"
	wireNote = wireNote50 + wireNote50 + wireNote50 + wireNote50 + wireNote50 + wireNote50

	wireNote50 = "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"

	wireMetadata = "\x8e" + wirePairs
	wirePayload  = `{"id": 789}`

	wirePosition = "1764000000000-7"
)

// wireRetry is the metadata of an attempt at the event that stands at wirePosition, the first of which began at the given time.
func wireRetry(attempt int, first time.Time) string {
	at := first.Format(time.RFC3339Nano)
	return "\xde\x00\x12" + wirePairs +
		"\xb1millrace_position\xaf1764000000000-7" +
		"\xb0millrace_attempt\xa1" + strconv.Itoa(attempt) +
		"\xaemillrace_first" + string([]byte{0xa0 | byte(len(at))}) + at +
		"\xafmillrace_origin\xa5retry"
}

// wireFields are the fields of an entry, in their order.
func wireFields(uuid, metadata, payload string) []string {
	return []string{"_watermill_message_uuid", uuid, "metadata", metadata, "payload", payload}
}

func wireEntry(fields ...string) redisstream.Entry {
	return redisstream.NewEntry(redisstream.ID{MS: 1764000000000, Seq: 7}, fields)
}

// wireBus reads entries as the bus of a namespace does. It is not open.
func wireBus(namespace string) *Bus { return &Bus{cfg: Config{Namespace: namespace}} }

func TestWireBytesOfAnEvent(t *testing.T) {
	t.Parallel()
	e := wireEvent()
	got := encode(&e).Entry(redisstream.ID{}).Fields()
	if diff := cmp.Diff(wireFields(wireUUID, wireMetadata, wirePayload), got); diff != "" {
		t.Errorf("written (-want +got):\n%s", diff)
	}
	d := wireBus("acme").decode("booking", wireEntry(got...))
	if diff := cmp.Diff(wireEvent(), d.Event); diff != "" {
		t.Errorf("read (-want +got):\n%s", diff)
	}
	if d.attempt != 1 || d.position != "" || d.origin != "" || d.hop != "" || d.previous != "" {
		t.Errorf("a fresh event is read with notes: %+v", d)
	}
}

func TestWireBytesOfACopy(t *testing.T) {
	t.Parallel()
	first := time.Date(2026, 11, 26, 8, 0, 0, 500, time.UTC)
	const hop, previous = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01", "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b8-00"
	const want = "\xde\x00\x17" + wirePairs +
		"\xb1millrace_position\xaf1764000000000-7" +
		"\xb0millrace_attempt\xa212" +
		"\xb0millrace_crashes\xa12" +
		"\xaemillrace_first\xbc2026-11-26T08:00:00.0000005Z" +
		"\xb0millrace_putoffs\xa3107" +
		"\xafmillrace_origin\xa6replay" +
		"\xacmillrace_hop\xd9\x37" + hop +
		"\xadmillrace_prev\xd9\x37" + previous +
		"\xb0millrace_newer__\xa7billing" // of a newer version: carried on
	c := &consumer{}
	ref := redisstream.Ref{Stream: "booking", ID: redisstream.ID{MS: 1764000000000, Seq: 7}}
	newer := []redisstream.Pair{{Key: "millrace_newer__", Value: "billing"}}
	got := c.again(ref, &decoded{Event: wireEvent(), crashes: 2, first: first, putOffs: 107, hop: hop, previous: previous, others: newer}, 12, OriginReplay)
	if diff := cmp.Diff(want, string(got.Metadata)); diff != "" {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
	d := wireBus("acme").decode("booking", got.Entry(redisstream.ID{MS: 1, Seq: 1}))
	if diff := cmp.Diff(wireEvent(), d.Event); diff != "" {
		t.Errorf("read (-want +got):\n%s", diff)
	}
	if d.position != wirePosition || d.attempt != 12 || d.crashes != 2 || !d.first.Equal(first) || d.putOffs != 107 || d.origin != OriginReplay || d.hop != hop || d.previous != previous || !slices.Equal(d.others, newer) {
		t.Errorf("notes were read as %+v", d)
	}
	// A copy of a copy still names the place of the event, not that of the copy.
	again := c.again(redisstream.Ref{Stream: "booking", Lane: true, ID: redisstream.ID{MS: 2}}, &d, 13, OriginRetry)
	if d := wireBus("acme").decode("booking", again.Entry(redisstream.ID{MS: 2})); d.position != wirePosition || d.attempt != 13 {
		t.Errorf("copy of a copy: position %s, attempt %d, want %s, 13", d.position, d.attempt, wirePosition)
	}
}

// What is empty is not written, and an event without data has an empty payload.
func TestWireBytesOfTheLeastEvent(t *testing.T) {
	t.Parallel()
	offset := time.Date(1890, 1, 1, 0, 0, 0, 0, time.FixedZone("LMT", 1172)) // 19 min 32 s east: no RFC 3339 offset is that precise
	e := Event{ID: "e-1", Type: "ping", Source: "s", Time: offset, CorrelationID: "c", ContentType: "application/json"}
	want := wireFields("e-1", "\x84"+"\xa4type\xa4ping"+"\xa6source\xa1s"+"\xa4time\xb41889-12-31T23:40:28Z"+"\xaecorrelation_id\xa1c", "")
	if diff := cmp.Diff(want, encode(&e).Entry(redisstream.ID{}).Fields()); diff != "" {
		t.Errorf("written (-want +got):\n%s", diff)
	}
}

// An entry has three fields, in one order, wherever it stands: in the stream, in the lane, and packed in the deferred set.
func TestWireEntriesInRedis(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	client := server.Client(t)
	b := openBus(t, Config{Redis: server.Options(), Namespace: namespace})

	publish(t, b, wireEvent())
	if diff := cmp.Diff([][]string{wireFields(wireUUID, wireMetadata, wirePayload)}, fieldsIn(t, client, namespace+":booking")); diff != "" {
		t.Errorf("stream (-want +got):\n%s", diff)
	}

	// A stream of which the position is known, too.
	xadd(t, client, namespace+":known", wirePosition, wireFields(wireUUID, wireMetadata, wirePayload)...)
	attempts := make(chan *message.Message)
	backoff := func(attempt int) time.Duration { return time.Duration(attempt-1) * time.Hour } // the first is made again at once
	consume(t, b, GroupConfig{Group: "g", Policy: Policy{Backoff: backoff}}, "known", func(m *message.Message, _ *Delivery) { attempts <- m })
	m := within(t, "the first attempt", attempts)
	first := CurrentDelivery(m.Context()).First
	m.Nack()
	second := within(t, "the second attempt", attempts)
	if diff := cmp.Diff([][]string{wireFields(wireUUID, wireRetry(2, first), wirePayload)}, fieldsIn(t, client, "{"+namespace+":known}:lane:g")); diff != "" {
		t.Errorf("lane (-want +got):\n%s", diff)
	}
	second.Nack()
	awaitGroup(t, b, "known", "g", func(g redisstream.GroupInfo) bool { return g.Deferred == 1 && g.Pending == 0 && g.Lane == 0 })
	members, err := client.ZRange(t.Context(), "{"+namespace+":known}:deferred:g", 0, -1).Result()
	if err != nil {
		t.Fatal(err)
	}
	third := wireRetry(3, first)
	want := "\x93\xd9\x24" + wireUUID + string([]byte{0xda, byte(len(third) >> 8), byte(len(third))}) + third + "\xab" + wirePayload // an array of three strings
	if diff := cmp.Diff([]string{want}, members); diff != "" {
		t.Errorf("deferred set (-want +got):\n%s", diff)
	}
}

// wireFlowField is slice of time, consumer, fingerprint.
var wireFlowField = regexp.MustCompile(`^[0-9]{9} [A-Za-z0-9._-]+ error-[0-9a-f]{12}$`)

// The keys of a stream, their kinds, and the fields of its hashes.
func TestWireKeys(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	client := server.Client(t)
	b := openBus(t, Config{Redis: server.Options(), Namespace: namespace})
	nack := func(m *message.Message, _ *Delivery) { m.Nack() }
	// What the first consumer handled waits for another one like it, what the second handles fails, and the third type is nobody's.
	_ = consume(t, b, GroupConfig{Group: "g", Patterns: []string{"wire.waits"}}, AllStreams, nack).Close()
	hour := Policy{Backoff: func(int) time.Duration { return time.Hour }}
	consume(t, b, GroupConfig{Group: "g", Patterns: []string{"wire.fails"}, Policy: hour}, AllStreams, nack)
	r := publish(t, b, Event{ID: "m-1", Type: "wire.waits"}, Event{Type: "wire.fails"}, Event{Type: "wire.other"})
	awaitGroup(t, b, "wire", "g", func(g redisstream.GroupInfo) bool { return g.Deferred == 2 && g.Pending == 0 && g.Lag == 0 })

	got := map[string]string{}
	for keys := client.Scan(t.Context(), 0, "*"+namespace+"*", 1000).Iterator(); keys.Next(t.Context()); {
		kind, err := client.Type(t.Context(), keys.Val()).Result()
		if err != nil {
			t.Fatal(err)
		}
		got[strings.ReplaceAll(keys.Val(), namespace, "acme")] = kind
	}
	want := map[string]string{
		"acme:wire": "stream", "{acme:wire}:meta": "hash", "{acme:wire}:writers": "hash", "{acme:wire}:lane:g": "stream", "{acme:wire}:deferred:g": "zset", "{acme:wire}:waiting:g": "zset",
		"{acme:wire}:alive:g": "zset", "{acme:wire}:flow:g": "hash", "{acme:wire}:failed:g": "zset",
		"acme:millrace:registry:streams": "set",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	if got := client.SMembers(t.Context(), namespace+":millrace:registry:streams").Val(); !slices.Equal(got, []string{"wire"}) {
		t.Errorf("registry holds %v, want wire", got)
	}

	meta := client.HGetAll(t.Context(), "{"+namespace+":wire}:meta").Val()
	waiting := client.ZRangeWithScores(t.Context(), "{"+namespace+":wire}:waiting:g", 0, -1).Val()
	member := ""
	if len(waiting) == 1 && waiting[0].Score == 0 {
		member = waiting[0].Member.(string)
	}
	parts := strings.SplitN(member, "\x00", 3)
	if len(parts) != 3 || parts[0] != "wire.waits" || len(parts[1]) != 18 || strings.Trim(parts[1], "0123456789") != "" || !strings.HasPrefix(parts[2], "\x93\xa3m-1\xd9") {
		t.Errorf("waiting set %v, want type, time and the packed copy", waiting)
	}
	for field, value := range meta { // those that change from run to run
		switch {
		case strings.HasPrefix(field, "consumer:g:"):
			if !strings.Contains(value, `"pid":`) {
				t.Errorf("consumer says %s of itself", value)
			}
			delete(meta, field)
		case field == "since:g":
			if len(value) != 13 || strings.Trim(value, "0123456789") != "" {
				t.Errorf("made at %q, want ms", value)
			}
			delete(meta, field)
		case field == "frontier:g":
			if _, err := redisstream.ParseID(value); err != nil {
				t.Errorf("frontier %q: %v", value, err)
			}
			delete(meta, field)
		}
	}
	wantMeta := map[string]string{
		"patterns:g": "wire.waits wire.fails", "version:g": "2",
		"unhandled:g:wire.other": "1", "types:g": "1",
	}
	if diff := cmp.Diff(wantMeta, meta); diff != "" {
		t.Errorf("meta (-want +got):\n%s", diff)
	}

	// What failed within the last minute: one event, of one consumer.
	flow := client.HGetAll(t.Context(), "{"+namespace+":wire}:flow:g").Val()
	for field, value := range flow {
		switch want, known := map[string]int{"begun": 13, "last": 9, "swept": 9}[field]; {
		case known && len(value) != want, !known && (!wireFlowField.MatchString(field) || value != "1"):
			t.Errorf("record of failures has %q: %q", field, value)
		}
	}
	delete(flow, "swept") // there from the first look at the record on
	failed := client.ZRange(t.Context(), "{"+namespace+":wire}:failed:g", 0, -1).Val()
	if len(flow) != 3 || len(failed) != 1 || !regexp.MustCompile(`^[0-9a-z]{8,13}$`).MatchString(failed[0]) {
		t.Errorf("record of failures %v, of the events %q; want one", flow, failed)
	}

	// One call without subjects is one append of one writer.
	marks := client.HGetAll(t.Context(), "{"+namespace+":wire}:writers").Val()
	wantMark := []string{"1 " + string(r.Outcomes[0].Position)}
	if got := slices.Collect(maps.Values(marks)); !slices.Equal(got, wantMark) {
		t.Errorf("marks %q, want %q", marks, wantMark)
	}
}

// What is read without complaint although Millrace does not write it so.
func TestWireIsReadLeniently(t *testing.T) {
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
		"metadata of no bytes":   {wireFields("m-1", "", "p"), bare},
		"metadata that is nil":   {wireFields("m-1", "\xc0", "p"), bare},
		"empty map":              {wireFields("m-1", "\x80", "p"), bare},
		"no metadata":            {[]string{"_watermill_message_uuid", "m-1", "payload", "p"}, bare},
		"no payload":             {[]string{"_watermill_message_uuid", "m-1", "metadata", "\x80"}, with(func(e *Event) { e.Data = nil })},
		"another order":          {[]string{"payload", "p", "metadata", "\x80", "_watermill_message_uuid", "m-1"}, bare},
		"further fields":         {append(wireFields("m-1", "\x80", "p"), "trace", "1"), bare},
		"field twice":            {append(wireFields("other", "\x80", "q"), wireFields("m-1", "", "p")...), bare},
		"empty ID":               {wireFields("", "", "p"), with(func(e *Event) { e.ID = "15c546a6-5dda-5fe4-b1cf-d69f7fa11c69" })},
		"ID as it is":            {wireFields("my id \xff", "", "p"), with(func(e *Event) { e.ID = "my id \xff" })},
		"map 16":                 {wireFields("m-1", "\xde\x00\x01\xa7subject\xa1s", "p"), with(func(e *Event) { e.Subject = "s" })},
		"map 32":                 {wireFields("m-1", "\xdf\x00\x00\x00\x01\xa7subject\xa1s", "p"), with(func(e *Event) { e.Subject = "s" })},
		"binaries":               {wireFields("m-1", "\x83\xc4\x07subject\xc4\x01s\xc5\x00\x07user_id\xc5\x00\x01u\xc6\x00\x00\x00\x01k\xc6\x00\x00\x00\x01v", "p"), with(func(e *Event) { e.Subject, e.UserID, e.Header["k"] = "s", "u", "v" })},
		"longer forms":           {wireFields("m-1", "\x83\xd9\x07subject\xd9\x01s\xda\x00\x07user_id\xda\x00\x01u\xdb\x00\x00\x00\x01k\xdb\x00\x00\x00\x01v", "p"), with(func(e *Event) { e.Subject, e.UserID, e.Header["k"] = "s", "u", "v" })},
		"value that is nil":      {wireFields("m-1", "\x82\xa7subject\xc0\xa1k\xc0", "p"), with(func(e *Event) { e.Header = map[string]string{"k": ""} })},
		"key twice":              {wireFields("m-1", "\x82\xa1k\xa11\xa1k\xa12", "p"), with(func(e *Event) { e.Header["k"] = "2" })},
		"empty defaults":         {wireFields("m-1", "\x83\xa4type\xa0\xa6source\xa0\xaccontent_type\xa0", "p"), bare},
		"type of another":        {wireFields("m-1", "\x81\xa4type\xaeinvoice.issued", "p"), with(func(e *Event) { e.Type = "invoice.issued" })},
		"time with an offset":    {wireFields("m-1", "\x81\xa4time\xb92026-11-24T10:00:00+02:00", "p"), with(func(e *Event) { e.Time = time.Date(2026, 11, 24, 8, 0, 0, 0, time.UTC) })},
		"time that is none":      {wireFields("m-1", "\x81\xa4time\xa9yesterday", "p"), bare},
		"time of the year 10000": {wireFields("m-1", "\x81\xa4time\xb99999-12-31T23:00:00-02:00", "p"), bare},
		"attempt that is none":   {wireFields("m-1", "\x81\xb0millrace_attempt\xa1x", "p"), bare},
		"keys of later":          {wireFields("m-1", "\x83\xb0millrace_crashes\xa11\xaemillrace_first\xa11\xb0millrace_handled\xa11", "p"), bare},
		"keys of watermill":      {wireFields("m-1", "\x81\xac_watermill_x\xa11", "p"), with(func(e *Event) { e.Header["_watermill_x"] = "1" })},
	} {
		got := wireBus("acme").decode("booking", wireEntry(test.fields...))
		if diff := cmp.Diff(test.want, got.Event, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if got.attempt != 1 {
			t.Errorf("%s: attempt %d, want 1", name, got.attempt)
		}
	}
}

// An entry without our UUID field, or with metadata that can't be read, is an event that holds its fields.
func TestWireOfForeignEntries(t *testing.T) {
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
		"metadata of JSON":       {wireFields("m-1", `{"type":"a"}`, "p"), `[["_watermill_message_uuid","m-1"],["metadata","{\"type\":\"a\"}"],["payload","p"]]`},
		"metadata that is cut":   {wireFields("m-1", "\x81\xa4type", "p"), `[["_watermill_message_uuid","m-1"],["metadata","gaR0eXBl"],["payload","p"]]`},
		"metadata that goes on":  {wireFields("m-1", "\x80\x80", "p"), `[["_watermill_message_uuid","m-1"],["metadata","gIA="],["payload","p"]]`},
		"metadata of other kind": {wireFields("m-1", "\x81\xa1k\x01", "p"), `[["_watermill_message_uuid","m-1"],["metadata","gaFrAQ=="],["payload","p"]]`},
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
			got := wireBus(namespace).decode("booking", wireEntry(test.fields...))
			if diff := cmp.Diff(want, got.Event); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
			if got.attempt != 1 || got.position != "" {
				t.Errorf("%s: attempt %d, position %q, want 1 and none", name, got.attempt, got.position)
			}
		}
	}
}

// A position may lie beyond the times that RFC 3339 can tell: then the event has the last of these.
func TestWireTimeOfAPositionBeyondAllYears(t *testing.T) {
	t.Parallel()
	last := time.Date(9999, 12, 31, 23, 59, 59, 999_000_000, time.UTC)
	for _, ms := range []uint64{253_402_300_799_999, 253_402_300_800_000, 1_764_000_000_000_000, redisstream.MaxID.MS} {
		entry := redisstream.NewEntry(redisstream.ID{MS: ms}, []string{"a", "1"})
		if got := wireBus("").decode("t", entry).Time; !got.Equal(last) {
			t.Errorf("%d ms: time %v, want %v", ms, got, last)
		}
	}
}

func TestWireRefusesWhatItCannotTell(t *testing.T) {
	t.Parallel()
	b := openBus(t, Config{})
	for name, e := range map[string]Event{
		"year 10000":                    {Time: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)},
		"year 10000 in UTC":             {Time: time.Date(9999, 12, 31, 23, 0, 0, 0, time.FixedZone("", -7200))},
		"header of a field":             {Header: map[string]string{"correlation_id": "c"}},
		"header of Millrace":            {Header: map[string]string{"millrace_anything": "c"}},
		"header of Watermill":           {Header: map[string]string{"_watermill_message_uuid": "c"}},
		"header with a blank":           {Header: map[string]string{"a b": "c"}},
		"header without a name":         {Header: map[string]string{"": "c"}},
		"header of more than 256 bytes": {Header: map[string]string{strings.Repeat("h", 257): "c"}},
	} {
		e.Type = "booking.created"
		if _, err := b.Publish(t.Context(), e); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: error %v, want ErrInvalid", name, err)
		}
	}
	// Names are compared as they are, and those of W3C are headers.
	publish(t, b, Event{Type: "booking.created", Header: map[string]string{"Type": "x", "traceparent": "x", "tracestate": "x", "millrace": "x", "X-A": "\x00"}})
}

// F43: a server keeps the order of fields, and names that occur twice. Every command that brings an entry does, too.
func TestF43FieldsKeepTheirOrderAndDuplicates(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	client := server.Client(t)
	b := openBus(t, Config{Redis: server.Options(), Namespace: namespace})
	want := []string{"z", "0", "a", "1", "a", "2", "\xff\r\n", "", "a", "1"}
	id := xadd(t, client, namespace+":d", "*", want...)
	check := func(way string, entries []redisstream.Entry, err error) {
		t.Helper()
		if err != nil || len(entries) != 1 || entries[0].ID != Position(id).bound() {
			t.Fatalf("%s: error %v, %d entries, want the one at %s", way, err, len(entries), id)
		}
		if diff := cmp.Diff(want, entries[0].Fields()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", way, diff)
		}
	}
	entriesOf := func(read []redisstream.Delivered) (entries []redisstream.Entry) {
		for _, d := range read {
			entries = append(entries, d.Entry)
		}
		return entries
	}
	ctx := t.Context()
	entries, err := b.log.Range(ctx, "d", redisstream.ID{}, redisstream.MaxID, 10, false)
	check("XRANGE", entries, err)
	entries, err = b.log.Range(ctx, "d", redisstream.ID{}, redisstream.MaxID, 10, true)
	check("XREVRANGE", entries, err)
	tail, err := b.log.Tail(ctx, map[string]redisstream.ID{"d": {}}, 10, time.Second)
	check("XREAD", tail["d"], err)

	one, two := redisstream.Consumer{Group: "g", Name: "one"}, redisstream.Consumer{Group: "g", Name: "two"}
	for _, c := range []redisstream.Consumer{one, two} {
		if _, err := b.log.Join(ctx, c, redisstream.Join{Stream: "d", Patterns: []string{"d"}}); err != nil {
			t.Fatal(err)
		}
	}
	read, err := b.log.Read(ctx, one, []string{"d"}, 10, time.Second)
	check("XREADGROUP", entriesOf(read), err)
	held, err := b.log.Held(ctx, one, "d", redisstream.ID{}, redisstream.ID{}, 10)
	if err != nil {
		t.Fatal(err)
	}
	var refs []redisstream.Ref
	for _, d := range held {
		refs = append(refs, d.Ref)
	}
	read, err = b.log.Load(ctx, "g", refs)
	check("loading what is pending", entriesOf(read), err)
	if err := b.log.Leave(ctx, one, "d"); err != nil {
		t.Fatal(err)
	}
	read, err = b.log.TakeOver(ctx, two, "d", redisstream.Peer{Name: "one", Beat: redisstream.Left}, redisstream.Most{Entries: 100, Bytes: 1 << 20})
	check("taking over", entriesOf(read), err)
}

// F43, seen from outside: XADD d * a 1 a 2.
func TestF43ForeignEventHoldsBothFieldsOfOneName(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	b := openBus(t, Config{Redis: server.Options(), Namespace: namespace})
	xadd(t, server.Client(t), namespace+":d", "*", "a", "1", "a", "2")
	const want = `[["a","1"],["a","2"]]`

	got := records(t, b, Query{Patterns: []string{"d"}})
	if len(got) != 1 || string(got[0].Data) != want {
		t.Errorf("history has %d records, want one with %s: %+v", len(got), want, got)
	}
	heard := make(chan string, 1)
	if _, err := b.Subscribe(t.Context(), Subscription{Patterns: []string{"d"}, From: Oldest}, func(_ context.Context, e Event) error {
		heard <- string(e.Data)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if got := within(t, "the subscription", heard); got != want {
		t.Errorf("subscription heard %s, want %s", got, want)
	}

	// The group gets it as it is read, as it is taken over, and as it is tried again.
	g := GroupConfig{Group: "g", Policy: Policy{DrainTimeout: time.Millisecond}}
	attempts := make(chan *message.Message, 1)
	handle := func(m *message.Message, _ *Delivery) { attempts <- m }
	sub := consume(t, b, g, "d", handle)
	checkAttempt := func(attempt int, claimed bool) *message.Message {
		t.Helper()
		m := within(t, "a delivery", attempts)
		if d := CurrentDelivery(m.Context()); string(m.Payload) != want || d.Attempt != attempt || d.Claimed != claimed {
			t.Errorf("got %s, attempt %d, claimed %v, want %s, %d, %v", m.Payload, d.Attempt, d.Claimed, want, attempt, claimed)
		}
		return m
	}
	checkAttempt(1, false)
	_ = sub.Close()
	consume(t, b, g, "d", handle)
	checkAttempt(1, true).Nack()
	checkAttempt(2, false).Ack()
	awaitSettled(t, b, "d", "g")
}

// xadd appends an entry as other software does, and returns its ID.
func xadd(t testing.TB, client redis.UniversalClient, key, id string, fields ...string) string {
	t.Helper()
	args := []any{"XADD", key, id}
	for _, f := range fields {
		args = append(args, f)
	}
	id, err := client.Do(t.Context(), args...).Text()
	if err != nil {
		t.Fatalf("xadd %s: %v", key, err)
	}
	return id
}

// fieldsIn returns the fields of all entries of a stream as the server sends them.
func fieldsIn(t testing.TB, client redis.UniversalClient, key string) (all [][]string) {
	t.Helper()
	entries, err := client.Do(t.Context(), "XRANGE", key, "-", "+").Slice()
	if err != nil {
		t.Fatalf("xrange %s: %v", key, err)
	}
	for _, e := range entries {
		var fields []string
		for _, f := range e.([]any)[1].([]any) {
			fields = append(fields, f.(string))
		}
		all = append(all, fields)
	}
	return all
}

// awaitGroup waits until what is known of the group is as wanted.
func awaitGroup(t testing.TB, b *Bus, stream, group string, wanted func(redisstream.GroupInfo) bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		groups, err := b.log.Groups(t.Context(), stream)
		if err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(groups, func(g redisstream.GroupInfo) bool { return g.Name == group && wanted(g) }) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for group %s: %+v", group, groups)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// asJSON writes the record as JSON and reads the event again.
func asJSON(r Record) (e Event, err error) {
	text, err := json.Marshal(r)
	if err == nil {
		err = json.Unmarshal(text, &e)
	}
	return e, err
}
