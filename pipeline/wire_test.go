package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"
	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/redistest"
	"github.com/rishi-platform/millrace/internal/wire"
)

// wireEvent has every field set.
func wireEvent() Event {
	return Event{
		ID: "0193e5a0-7c00-7000-8000-000000000001", Type: "booking.created", Source: "shop", Subject: "booking/789",
		Time:          time.Date(2026, 11, 24, 10, 0, 0, 123456789, time.UTC),
		CorrelationID: "req-42", CausationID: "e-0", OrganizationID: "org-7", UserID: "Grüße",
		Header:      map[string]string{HeaderTraceState: "vendor=1", "empty": "", "X-Note": strings.Repeat("n", 300), "bytes": "\x00\xff"},
		ContentType: "application/yaml",
		Data:        []byte(`{"id": 789}`),
	}
}

// wireRetry is an attempt at the event that stands at a position, the first of which began at the given time.
func wireRetry(position string, attempt int, first time.Time) redisstream.Message {
	return wire.Again(redisstream.ID{}, &wire.Decoded{Event: wire.Event(wireEvent()), Position: position, First: first}, attempt, OriginRetry)
}

// An entry has three fields, in one order, wherever it stands: in the stream, in the lane, and packed in the deferred set.
func TestWireEntriesInRedis(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	client := server.Client(t)
	b := openBus(t, Config{Redis: server.Options(), Namespace: namespace})

	const position = "1764000000000-7"
	e := wireEvent()
	fields := encode(&e).Entry(redisstream.ID{}).Fields() // the bytes of which internal/wire pins
	publish(t, b, e)
	if diff := cmp.Diff([][]string{fields}, fieldsIn(t, client, namespace+":booking")); diff != "" {
		t.Errorf("stream (-want +got):\n%s", diff)
	}

	// A stream of which the position is known, too.
	xadd(t, client, namespace+":known", position, fields...)
	attempts := make(chan *message.Message)
	backoff := func(attempt int) time.Duration { return time.Duration(attempt-1) * time.Hour } // the first is made again at once
	consume(t, b, GroupConfig{Group: "g", Policy: Policy{Backoff: backoff}}, "known", func(m *message.Message, _ *Delivery) { attempts <- m })
	m := within(t, "the first attempt", attempts)
	first := CurrentDelivery(m.Context()).First
	m.Nack()
	second := within(t, "the second attempt", attempts)
	if diff := cmp.Diff([][]string{wireRetry(position, 2, first).Entry(redisstream.ID{}).Fields()}, fieldsIn(t, client, "{"+namespace+":known}:lane:g")); diff != "" {
		t.Errorf("lane (-want +got):\n%s", diff)
	}
	second.Nack()
	awaitGroup(t, b, "known", "g", func(g redisstream.GroupInfo) bool { return g.Deferred == 1 && g.Pending == 0 && g.Lane == 0 })
	members, err := client.ZRange(t.Context(), "{"+namespace+":known}:deferred:g", 0, -1).Result()
	if err != nil {
		t.Fatal(err)
	}
	third := wireRetry(position, 3, first).Metadata
	want := "\x93\xd9\x24" + e.ID + string([]byte{0xda, byte(len(third) >> 8), byte(len(third))}) + third + "\xab" + string(e.Data) // an array of three strings
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

// encode returns the event as it is written to a stream.
func encode(e *Event, extra ...redisstream.Pair) redisstream.Message {
	return wire.Encode((*wire.Event)(e), extra...)
}
