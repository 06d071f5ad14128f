package pipeline

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/redistest"
	"github.com/rishi-platform/millrace/internal/wire"
)

// F01: no entry that other software writes ends or holds up anything, whatever is in it.

// foreignEntry is an entry as other software writes it, and the event that it is.
type foreignEntry struct {
	fields []string
	id     string // of the event; empty: made of the entry's place
	data   string
	mapped bool // the data are the fields
}

var foreignEntries = []foreignEntry{
	// No envelope: as in XADD t * hello world, without a byte, binary, a name twice, without the UUID.
	{fields: []string{"hello", "world"}, mapped: true, data: `[["hello","world"]]`},
	{fields: []string{"name", ""}, mapped: true, data: `[["name",""]]`},
	{fields: []string{"", ""}, mapped: true, data: `[["",""]]`},
	{fields: []string{"\xff\x00\r\n", "\x80\x81"}, mapped: true, data: `[["/wANCg==","gIE="]]`},
	{fields: []string{"a", "1", "a", "2"}, mapped: true, data: `[["a","1"],["a","2"]]`},
	{fields: []string{"payload", "p", "metadata", ""}, mapped: true, data: `[["payload","p"],["metadata",""]]`},
	// Metadata that can't be read: text, JSON, cut, of 4 G pairs, with a key of 4 GiB, a map in a map.
	{fields: envelope("m-1", "no msgpack"), mapped: true, data: envelopeAsData("m-1", "no msgpack")},
	{fields: envelope("m-2", `{"k":"v"}`), mapped: true, data: envelopeAsData("m-2", `{\"k\":\"v\"}`)},
	{fields: envelope("m-3", "\x81\xa4type"), mapped: true, data: envelopeAsData("m-3", "gaR0eXBl")},
	{fields: envelope("m-4", "\xdf\xff\xff\xff\xff"), mapped: true, data: envelopeAsData("m-4", "3/////8=")},
	{fields: envelope("m-5", "\x81\xdb\xff\xff\xff\xff"), mapped: true, data: envelopeAsData("m-5", "gdv/////")},
	{fields: envelope("m-6", "\x81\xa1k\x81\xa1k\xa1v"), mapped: true, data: envelopeAsData("m-6", "gaFrgaFroXY=")},
	// An envelope with less in it: no metadata as Watermill writes it, no payload, the UUID alone.
	{fields: envelope("m-7", ""), id: "m-7", data: "p"},
	{fields: []string{"_watermill_message_uuid", "m-8", "metadata", "\x80"}, id: "m-8"},
	{fields: []string{"_watermill_message_uuid", "m-9"}, id: "m-9"},
	// An ID that no event of ours has, none at all, and two of them.
	{fields: envelope("m 10 \x00\xff", "\xc0"), id: "m 10 \x00\xff", data: "p"},
	{fields: envelope("", ""), data: "p"},
	{fields: []string{"_watermill_message_uuid", "first", "_watermill_message_uuid", "m-12", "payload", "p", "more", ""}, id: "m-12", data: "p"},
}

func envelope(id, metadata string) []string {
	return []string{"_watermill_message_uuid", id, "metadata", metadata, "payload", "p"}
}

func envelopeAsData(id, metadata string) string {
	return `[["_watermill_message_uuid","` + id + `"],["metadata","` + metadata + `"],["payload","p"]]`
}

// event is the event that the entry is at its place.
func (f foreignEntry) event(namespace, entryID string) Event {
	at, _ := Position(entryID).Time()
	e := Event{ID: f.id, Type: "t", Source: "watermill", Time: at, ContentType: "application/json", Data: []byte(f.data)}
	if f.mapped {
		e.Source, e.ContentType = "redis:"+namespace+":t", "application/vnd.millrace.fields+json"
	}
	if e.ID == "" {
		e.ID = uuid.NewSHA1(uuid.NameSpaceURL, []byte("redis:"+namespace+":t/"+entryID)).String()
	}
	return e
}

// foreignRun is a stream "t" to which others write as well.
type foreignRun struct {
	bus       *Bus
	client    redis.UniversalClient
	namespace string
}

func newForeignRun(t *testing.T, change func(*Config)) *foreignRun {
	t.Helper()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	cfg := Config{Redis: server.Options(), Namespace: namespace, Service: "test"}
	if change != nil {
		change(&cfg)
	}
	return &foreignRun{openBus(t, cfg), server.Client(t), namespace}
}

// good publishes an event of ours and returns it as it is read.
func (f *foreignRun) good(t *testing.T, id string) Event {
	t.Helper()
	at := time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)
	e := Event{ID: id, Type: "t.good", Source: "test", Time: at, CorrelationID: "c", ContentType: "application/json", Data: []byte("1")}
	publish(t, f.bus, e)
	return e
}

// foreign writes all the entries of others and returns the events that they are.
func (f *foreignRun) foreign(t *testing.T) (events []Event) {
	t.Helper()
	for _, entry := range foreignEntries {
		id := xadd(t, f.client, f.namespace+":t", "*", entry.fields...)
		events = append(events, entry.event(f.namespace, id))
	}
	return events
}

// mixed writes good, foreign and good.
func (f *foreignRun) mixed(t *testing.T) []Event {
	t.Helper()
	first := f.good(t, "good-1")
	return append(append([]Event{first}, f.foreign(t)...), f.good(t, "good-2"))
}

// takeEvents receives as many events as are wanted and compares them, order included.
func takeEvents(t *testing.T, what string, want []Event, got <-chan Event) {
	t.Helper()
	for i := range want {
		e := within(t, fmt.Sprintf("%s: event %d of %d", what, i+1, len(want)), got)
		if diff := cmp.Diff(want[i], e, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: event %d (-want +got):\n%s", what, i, diff)
		}
	}
}

func TestF01GroupIsDeliveredForeignEntriesOfItsTypes(t *testing.T) {
	t.Parallel()
	f := newForeignRun(t, nil)
	got := make(chan Event, 100)
	g := GroupConfig{Group: "g", Patterns: []string{"t", "t.*"}, InFlight: 1}
	consume(t, f.bus, g, AllStreams, func(m *message.Message, d *Delivery) {
		if m.UUID != d.Event.ID || string(m.Payload) != string(d.Event.Data) || m.Metadata[wire.KeyType] != d.Event.Type {
			t.Errorf("message %s %q of %s is not the event %+v", m.UUID, m.Payload, m.Metadata[wire.KeyType], d.Event)
		}
		// A handler can work as with any other event.
		if _, err := f.bus.Publish(m.Context(), Event{Type: "reply.made"}); err != nil {
			t.Errorf("publish in the handler of %q: %v", d.Event.ID, err)
		}
		m.Ack()
		got <- d.Event
	})
	takeEvents(t, "before", []Event{f.good(t, "good-0")}, got) // the loop waits in a read now
	takeEvents(t, "mixed", f.mixed(t), got)
	takeEvents(t, "after", []Event{f.good(t, "good-3")}, got)
	awaitSettled(t, f.bus, "t", "g")
}

// What carries no event goes to the dead letters, where somebody can look at it. What carries one whose metadata says nothing counts as an event of
// the stream's name.
func TestF01ForeignEntriesThatNobodyHandlesAreDeadLetters(t *testing.T) {
	t.Parallel()
	f := newForeignRun(t, nil)
	got := make(chan Event, 100)
	g := GroupConfig{Group: "g", Patterns: []string{"t.*", "other.*"}, InFlight: 1}
	consume(t, f.bus, g, AllStreams, func(m *message.Message, d *Delivery) { m.Ack(); got <- d.Event })
	want := f.mixed(t)
	takeEvents(t, "good ones", []Event{want[0], want[len(want)-1]}, got)
	publish(t, f.bus, Event{ID: "elsewhere", Type: "other.made"})
	if e := within(t, "an event of another stream", got); e.ID != "elsewhere" {
		t.Errorf("got %+v, want the event of another stream", e)
	}
	awaitSettled(t, f.bus, "t", "g")
	takeEvents(t, "after", []Event{f.good(t, "good-3")}, got)
	for _, s := range f.bus.Health(t.Context()).Streams {
		if s.Name != "t" {
			continue
		}
		dead := deadLetters(t, f.bus, "t", "g")
		for _, d := range dead {
			if d.Kind != KindForeign || d.Event.ContentType != ContentTypeFields {
				t.Errorf("dead letter %+v, want a foreign one", d)
			}
		}
		wantRows := []UnhandledRow{{Type: "t", Count: int64(len(foreignEntries) - len(dead))}}
		if len(dead) == 0 {
			t.Error("no entry is a dead letter")
		}
		if diff := cmp.Diff(wantRows, s.Groups[0].Unhandled); diff != "" {
			t.Errorf("unhandled (-want +got):\n%s", diff)
		}
	}
}

// A foreign entry that fails is copied to the lane in our format: it must come as the same event, at the same position.
func TestF01ForeignEntryIsTriedAgainAsTheSameEvent(t *testing.T) {
	t.Parallel()
	f := newForeignRun(t, nil)
	want := map[Position]Event{}
	for _, entry := range foreignEntries {
		id := xadd(t, f.client, f.namespace+":t", "*", entry.fields...)
		want[Position(id)] = entry.event(f.namespace, id)
	}
	settled := make(chan *Delivery, 100)
	consume(t, f.bus, GroupConfig{Group: "g"}, "t", func(m *message.Message, d *Delivery) {
		if d.Attempt == 1 {
			m.Nack()
			return
		}
		m.Ack()
		settled <- d
	})
	for range foreignEntries {
		d := within(t, "a second attempt", settled)
		e, known := want[d.Position]
		if !known || d.Attempt != 2 || d.Origin != OriginRetry {
			t.Errorf("attempt %d, origin %q at %s: want the second attempt of an entry, once", d.Attempt, d.Origin, d.Position)
		}
		delete(want, d.Position)
		if diff := cmp.Diff(e, d.Event, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("second attempt at %s (-want +got):\n%s", d.Position, diff)
		}
	}
	awaitSettled(t, f.bus, "t", "g")
}

// What is pending with a consumer that left is read by another command.
func TestF01ForeignEntriesAreTakenOver(t *testing.T) {
	t.Parallel()
	f := newForeignRun(t, nil)
	want := f.mixed(t)
	g := GroupConfig{Group: "g", Policy: Policy{DrainTimeout: time.Millisecond}}
	began := make(chan struct{}, 100)
	sub := consume(t, f.bus, g, "t", func(*message.Message, *Delivery) { began <- struct{}{} })
	for range want {
		within(t, "a delivery", began)
	}
	_ = sub.Close()
	byPosition := map[string]Event{}
	taken := make(chan *Delivery, 100)
	consume(t, f.bus, g, "t", func(m *message.Message, d *Delivery) { m.Ack(); taken <- d })
	for range want {
		d := within(t, "a delivery that was taken over", taken)
		if !d.Claimed {
			t.Errorf("%s was not taken over", d.Position)
		}
		byPosition[d.Event.ID] = d.Event
	}
	for _, e := range want {
		if diff := cmp.Diff(e, byPosition[e.ID], cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("taken over (-want +got):\n%s", diff)
		}
	}
	awaitSettled(t, f.bus, "t", "g")
}

func TestF01HistoryHoldsForeignEntries(t *testing.T) {
	t.Parallel()
	f := newForeignRun(t, nil)
	want := f.mixed(t)
	queries := map[string]Query{
		"by stream":   {Streams: []string{"t"}},
		"by pattern":  {Patterns: []string{"t", "t.**"}},
		"everything":  {},
		"from redis":  {Source: FromRedis},
		"newest last": {Newest: true},
	}
	for name, q := range queries {
		got := records(t, f.bus, q)
		if len(got) != len(want) {
			t.Errorf("%s: %d records, want %d", name, len(got), len(want))
			continue
		}
		for i, r := range got {
			e := want[i]
			if q.Newest {
				e = want[len(want)-1-i]
			}
			if diff := cmp.Diff(e, r.Event, cmpopts.EquateEmpty()); diff != "" || r.Stream != "t" {
				t.Errorf("%s: record %d of stream %s (-want +got):\n%s", name, i, r.Stream, diff)
			}
			// Each can be told as a CloudEvent. Text that is not UTF-8 can't, and is the one thing that changes.
			if e, err := asJSON(r); err != nil || e.ID != string([]rune(r.ID)) || string(e.Data) != string(r.Data) {
				t.Errorf("%s: record %d is not a CloudEvent: %+v, error %v", name, i, e, err)
			}
		}
	}
	if got := records(t, f.bus, Query{Patterns: []string{"t"}}); len(got) != len(foreignEntries) {
		t.Errorf("%d records of type t, want the %d foreign ones", len(got), len(foreignEntries))
	}
}

func TestF01HistoryFollowsThroughForeignEntries(t *testing.T) {
	t.Parallel()
	f := newForeignRun(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got, ended := make(chan Event, 100), make(chan error, 1)
	go func() {
		for r, err := range f.bus.History(ctx, Query{Streams: []string{"t"}, Follow: true}) {
			if err != nil {
				ended <- err
				return
			}
			got <- r.Event
		}
	}()
	takeEvents(t, "before", []Event{f.good(t, "good-0")}, got)
	takeEvents(t, "mixed", f.mixed(t), got)
	cancel()
	if err := within(t, "the end of the history", ended); err != context.Canceled {
		t.Errorf("history ended with %v, want only the end of its ctx", err)
	}
}

func TestF01SubscriptionHearsForeignEntries(t *testing.T) {
	t.Parallel()
	for _, redisOnly := range []bool{false, true} {
		t.Run("redisOnly="+strconv.FormatBool(redisOnly), func(t *testing.T) {
			t.Parallel()
			f := newForeignRun(t, func(c *Config) { c.RedisOnly = redisOnly })
			subscribe := func(from Position) <-chan Event {
				heard := make(chan Event, 100)
				s := Subscription{Patterns: []string{"t", "t.**"}, From: from}
				if _, err := f.bus.Subscribe(t.Context(), s, func(_ context.Context, e Event) error { heard <- e; return nil }); err != nil {
					t.Fatal(err)
				}
				return heard
			}
			live := subscribe(Now)
			want := f.mixed(t)
			takeEvents(t, "live", want, live)
			late := subscribe(Oldest)
			takeEvents(t, "late", want, late)
			after := []Event{f.good(t, "good-3")}
			takeEvents(t, "live, after", after, live)
			takeEvents(t, "late, after", after, late)
		})
	}
}

// An entry ID of microseconds lies 55,000 years ahead. Such an event is read, told as JSON, and tried again as it is.
func TestF01PositionBeyondAllYears(t *testing.T) {
	t.Parallel()
	f := newForeignRun(t, nil)
	f.good(t, "good-1")
	xadd(t, f.client, f.namespace+":t", "1764000000000000-0", "hello", "world")
	f.good(t, "good-2")
	last := time.Date(9999, 12, 31, 23, 59, 59, 999_000_000, time.UTC)
	for _, r := range records(t, f.bus, Query{Streams: []string{"t"}}) {
		e, err := asJSON(r)
		if err != nil || !e.Time.Equal(r.Time) || e.Type == "t" && !e.Time.Equal(last) {
			t.Errorf("%s: %v, error %v", r.Position, e.Time, err)
		}
	}
	attempts := make(chan *Delivery, 10)
	consume(t, f.bus, GroupConfig{Group: "g", Patterns: []string{"t"}}, AllStreams, func(m *message.Message, d *Delivery) {
		if d.Attempt == 1 {
			m.Nack()
		} else {
			m.Ack()
		}
		attempts <- d
	})
	first, second := within(t, "the first attempt", attempts), within(t, "the second attempt", attempts)
	if diff := cmp.Diff(first.Event, second.Event); diff != "" {
		t.Errorf("second attempt (-first +second):\n%s", diff)
	}
	awaitGroup(t, f.bus, "t", "g", func(g redisstream.GroupInfo) bool { return g.Pending == 0 && g.Lane == 0 && g.Lag == 0 })
}
