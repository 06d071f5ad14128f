package pipeline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/redistest"
	"github.com/rishi-platform/millrace/internal/spool"
)

// wantInOrder checks that each of n events is stored once, and those of a subject in the order of their
// IDs, which are numbers.
func wantInOrder(t *testing.T, b *Bus, n int) {
	t.Helper()
	last := map[subjectKey]int{}
	all := published(t, b, Query{})
	for _, r := range all {
		of := subjectKey{r.Stream, r.Event.Subject}
		number, err := strconv.Atoi(r.Event.ID)
		if err != nil || number <= last[of] {
			t.Fatalf("%v: %s stands behind %d", of, r.Event.ID, last[of])
		}
		last[of] = number
	}
	if len(all) != n {
		t.Errorf("%d events are stored, want each of %d once", len(all), n)
	}
}

// scriptsOf returns how many scripts a server has run.
func scriptsOf(t *testing.T, server *redistest.Server) (n int) {
	t.Helper()
	text := server.Client(t).Info(t.Context(), "commandstats").Val()
	_, after, _ := strings.Cut(text, "cmdstat_evalsha:calls=")
	if _, err := fmt.Sscanf(after, "%d,", &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// A spool of many streams, whose events come in turns, needs about as many appends as one of a single stream.
func TestP01StreamsDrainSideBySide(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	b := openBus(t, Config{Redis: server.Options(), SpoolDir: t.TempDir()})
	server.Kill(t)
	awaitState(t, b, StateSpooling)
	const n, streams = 6000, 20
	for i := 0; i < n; {
		var batch []Event
		for range 500 {
			i++
			batch = append(batch, Event{ID: fmt.Sprint(i), Type: fmt.Sprintf("s%d.step", i%streams), Subject: fmt.Sprint(i % 7)})
		}
		publishSpooled(t, b, batch...)
	}
	server.StartAgain(t)
	awaitState(t, b, StateDurable)
	if calls := scriptsOf(t, server); calls > n/streams {
		t.Errorf("%d scripts for %d events of %d streams", calls, n, streams)
	}
	wantInOrder(t, b, n)
	awaitRoom(t, b)
}

// Who publishes to the same subjects all the time does not keep a spool from becoming empty.
func TestP01DrainWins(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	b := openBus(t, Config{Redis: server.Options(), SpoolDir: t.TempDir()})
	server.Kill(t)
	awaitState(t, b, StateSpooling)
	const hot = 20
	ctx, stop := context.WithCancel(t.Context())
	var publishers sync.WaitGroup
	var counts [hot]int
	for i := range hot {
		publishers.Go(func() {
			for ctx.Err() == nil {
				counts[i]++
				e := Event{ID: fmt.Sprint(counts[i]), Type: fmt.Sprintf("s%d.step", i%10), Subject: fmt.Sprint(i)}
				if _, err := b.Publish(t.Context(), e); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	awaitFact(t, "a backlog", func() bool { return b.spool.count() > 2000 })
	server.StartAgain(t)
	awaitState(t, b, StateDurable)
	stop()
	publishers.Wait()
	awaitState(t, b, StateDurable)
	n := 0
	for _, count := range counts {
		n += count
	}
	wantInOrder(t, b, n)
}

// A handler that has an event from the spool may publish to its subject: it is not to wait for the drain,
// which waits for it.
func TestP01HandlerDoesNotWaitForItself(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	b := openBus(t, Config{Redis: server.Options(), SpoolDir: t.TempDir(), Fallback: Local, OutageAfter: time.Hour})
	began, goOn, done := make(chan struct{}, 1), make(chan struct{}), make(chan Durability, 1)
	handle(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.created"}}, AllStreams, func(ctx context.Context, d *Delivery) error {
		began <- struct{}{}
		<-goOn
		r, err := b.Publish(ctx, Event{ID: "2", Type: "booking.changed", Subject: d.Event.Subject})
		done <- r.Durability()
		return err
	})
	publish(t, b, Event{ID: "0", Type: "booking.changed"})
	server.Kill(t)
	awaitState(t, b, StateSpooling)
	publishSpooled(t, b, Event{ID: "1", Type: "booking.created", Subject: "s"})
	within(t, "the handler", began)
	server.StartAgain(t)
	awaitState(t, b, StateDraining)
	close(goOn)
	if got := within(t, "what the handler publishes", done); got != Spooled {
		t.Errorf("it is %v, want it behind the other one of its subject", got)
	}
	awaitState(t, b, StateDurable)
}

// A stream that Redis refuses is set aside, though it comes first and has the most: the others drain, and
// it does when Redis takes it.
func TestP06RefusedStreamHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	client := server.Client(t)
	b := openBus(t, Config{Redis: server.Options(), SpoolDir: t.TempDir(), OutageAfter: time.Hour})
	if err := client.Set(t.Context(), "refused", "x", 0).Err(); err != nil {
		t.Fatal(err)
	}
	server.Kill(t)
	awaitState(t, b, StateSpooling)
	const n = windowRecords + 1000 // the window is full of them at first
	next := 0
	add := func(count int, eventType string) {
		var batch []Event
		for range count {
			next++
			batch = append(batch, Event{ID: fmt.Sprint(next), Type: eventType, Subject: "s"})
		}
		publishSpooled(t, b, batch...)
	}
	for range n / 500 {
		add(500, "refused.step")
	}
	add(100, "booking.created")
	add(n%500, "refused.step")
	server.StartAgain(t)
	awaitState(t, b, StateDraining)
	awaitFact(t, "the other stream", func() bool { return len(records(t, b, Query{Streams: []string{"booking"}, Source: FromRedis})) == 100 })
	h := b.Health(t.Context())
	if h.State != StateDraining || h.Spool.Events < n || !strings.Contains(fmt.Sprint(h.Problems), "stream refused: WRONGTYPE") {
		t.Errorf("state %s, spool %+v, problems %+v", h.State, h.Spool, h.Problems)
	}
	if s := b.spool.log.Stats(); s.First > 2 { // record 1 tells of the outage
		t.Errorf("what stands before record %d counts as drained", s.First)
	}
	next++
	publish(t, b, Event{ID: fmt.Sprint(next), Type: "booking.created", Subject: "s"})
	next++
	told := make(chan Durability, 1)
	go func() {
		r, err := b.Publish(t.Context(), Event{ID: fmt.Sprint(next), Type: "refused.step", Subject: "s"})
		if err != nil {
			t.Error(err)
		}
		told <- r.Durability()
	}()
	if got := within(t, "an event whose turn does not come", told); got != Spooled {
		t.Errorf("it is %v", got)
	}
	if err := client.Del(t.Context(), "refused").Err(); err != nil {
		t.Fatal(err)
	}
	awaitState(t, b, StateDurable)
	wantInOrder(t, b, next)
	if h := b.Health(t.Context()); hasProblem(h, "spool-stuck") {
		t.Errorf("problems %+v", h.Problems)
	}
}

// slotOf makes a slot as a process leaves it that has ended, with these records.
func slotOf(t *testing.T, cfg Config, records ...[]byte) *spool.Log {
	t.Helper()
	b := &Bus{cfg: cfg}
	log, err := spool.Open(b.spoolDir(), spool.Server{Address: b.address()}, spool.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(records) > 0 {
		kept := make(chan error, 1)
		log.Append(records, func(_ uint64, err error) { kept <- err })
		if err := within(t, "the record", kept); err != nil {
			t.Fatal(err)
		}
	}
	return log
}

func recordOf(stream, id string) []byte {
	e := Event{ID: id, Type: stream + ".step", Source: "s", Time: time.Now()}
	r := spooled{stream: stream, at: time.Now(), events: []spooledEvent{{message: encode(&e)}}}
	return r.encode()
}

// A bus is closed at once while it can't drain what a process before it has left.
func TestP04AdoptedSpoolEndsWithTheBus(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	log := newLogged()
	cfg := Config{Redis: server.Options(), SpoolDir: t.TempDir(), Logger: slog.New(log)}
	own, left := slotOf(t, cfg), slotOf(t, cfg, recordOf("refused", "1"))
	if err := errors.Join(own.Close(), left.Close()); err != nil {
		t.Fatal(err)
	}
	if err := server.Client(t).Set(t.Context(), "refused", "x", 0).Err(); err != nil {
		t.Fatal(err)
	}
	b, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	awaitFact(t, "the problem", func() bool { return hasProblem(b.Health(t.Context()), "spool-stuck") })
	closeBus(t, b)
	if n := len(log.with("spool can't be drained; it is tried again")); n != 1 {
		t.Errorf("it is said %d times, want once", n)
	}
}

// What another version has written is named and stays where it is, with what stands behind it, which must
// not overtake it. What stands before it is drained, and the next slot, also behind one that is damaged; and what is
// published in the next outage goes to another slot.
func TestP04UnreadableRecordsStay(t *testing.T) {
	t.Parallel()
	ofAnotherVersion := []byte{spoolVersion + 1, 'x'}
	for name, slots := range map[string][][][]byte{
		"own":     {{recordOf("booking", "1"), ofAnotherVersion, recordOf("booking", "behind")}},
		"adopted": {nil, {recordOf("booking", "1"), ofAnotherVersion, recordOf("booking", "behind")}, {recordOf("booking", "of nobody")}, {recordOf("booking", "2")}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := Config{Redis: redistest.Shared(t).Options(), Namespace: redistest.Namespace(t), SpoolDir: t.TempDir()}
			var logs []*spool.Log
			for _, records := range slots {
				logs = append(logs, slotOf(t, cfg, records...))
			}
			for _, log := range logs {
				if err := log.Close(); err != nil {
					t.Fatal(err)
				}
			}
			want := 1
			if len(slots) > 1 {
				want = 2
				if err := os.WriteFile(filepath.Join(logs[2].Dir(), "owner"), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if want == 1 { // and the end is damaged
				segments, err := filepath.Glob(filepath.Join(logs[0].Dir(), "*.log"))
				if err != nil || len(segments) != 1 {
					t.Fatal(segments, err)
				}
				content, err := os.ReadFile(segments[0])
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(segments[0], append(content, bytes.Repeat([]byte{255}, 64)...), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			b := openBus(t, cfg)
			awaitFact(t, "what can be read", func() bool { return len(records(t, b, Query{Streams: []string{"booking"}})) == want })
			awaitFact(t, "the problem", func() bool {
				h := b.Health(t.Context())
				text := fmt.Sprint(h.Problems)
				return h.State == StateDurable && hasProblem(h, "spool-damaged") == (want == 1) && strings.Contains(text, "2 records stay: ") && strings.Contains(text, "is damaged") == (want == 2)
			})
			for _, slot := range b.spool.survey() {
				if b.spool.begins(slot) {
					t.Errorf("%s is read again", slot.Dir)
				}
			}
			dir := logs[min(1, len(logs)-1)].Dir()
			var left [][]byte
			if err := spool.Export(dir, func(r spool.Record) error { left = append(left, r.Data); return nil }); err != nil {
				t.Fatal(err)
			}
			if n := len(left); n < 2 || !bytes.Equal(left[n-2], ofAnotherVersion) || b.spool.log.Dir() == dir {
				t.Errorf("%d records are left in %s; the bus has %s", n, dir, b.spool.log.Dir())
			}
			if n := len(records(t, b, Query{Streams: []string{"booking"}})); n != want {
				t.Errorf("%d events are stored, want %d", n, want)
			}
		})
	}
}

// Once more after a lost answer: an append of events that go once is answered again, though there are more
// by now, and what it could not store is told.
func TestP01ConflictIsToldAfterALostAnswer(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	proxy := redistest.NewProxy(t, server.Addr())
	lost := make(chan Loss, 10)
	b := openBus(t, Config{Redis: &redis.UniversalOptions{Addrs: []string{proxy.Addr()}}, SpoolDir: t.TempDir(), Hooks: Hooks{Lost: func(l Loss) { lost <- l }}})
	direct := openBus(t, Config{Redis: server.Options()})
	if _, err := direct.PublishWith(t.Context(), PublishOptions{Key: "k2"}, Event{Type: "booking.created", Data: []byte("1")}); err != nil {
		t.Fatal(err)
	}
	proxy.Refuse(true)
	proxy.Reset()
	awaitState(t, b, StateSpooling)
	for i := range 5 {
		if r, err := b.PublishWith(t.Context(), PublishOptions{Key: fmt.Sprint("k", i)}, Event{Type: "booking.created"}); err != nil || r.Durability() != Spooled {
			t.Fatal(r, err)
		}
	}
	reader := b.spool.log.Reader()
	defer reader.Close()
	read, err := reader.Read(1000)
	if err != nil {
		t.Fatal(err)
	}
	var batch []*spooled
	for _, record := range read {
		r, err := decodeSpooled(record.Data)
		if err != nil {
			t.Fatal(err)
		}
		if r.number = record.Number; r.stream == "booking" && len(batch) < 3 {
			batch = append(batch, &r)
		}
	}
	var messages []redisstream.Message
	var seen []redisstream.Seen
	for _, r := range batch {
		m, s := b.spool.messages(r)
		messages, seen = append(messages, m...), append(seen, s...)
	}
	w := redisstream.Writer{Name: b.spool.log.ID(), Seq: batch[2].number}
	if _, _, err := direct.redis.AppendOnce(t.Context(), "booking", w, messages, seen); err != nil { // whose answer is lost
		t.Fatal(err)
	}
	proxy.Refuse(false)
	awaitState(t, b, StateDurable)
	if l := within(t, "the loss", lost); l.Reason != ReasonConflict || l.Events != 1 {
		t.Errorf("%+v", l)
	}
	if n := len(published(t, b, Query{})); n != 5 {
		t.Errorf("%d events are stored, want the other one and 4", n)
	}
}

// What a handler has holds up its stream, and no other, though the window is full of its stream.
func TestP01HandlerHoldsUpItsStreamOnly(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	b := openBus(t, Config{Redis: server.Options(), SpoolDir: t.TempDir(), Fallback: Local})
	began, goOn := make(chan struct{}, 1), make(chan struct{})
	handle(t, b, GroupConfig{Group: "g", InFlight: 1, Patterns: []string{"booking.created"}}, AllStreams, func(context.Context, *Delivery) error {
		select {
		case began <- struct{}{}:
			<-goOn
		default:
		}
		return nil
	})
	publish(t, b, Event{Type: "booking.changed"})
	server.Kill(t)
	awaitState(t, b, StateSpooling)
	publishSpooled(t, b, Event{Type: "booking.created"})
	within(t, "the handler", began)
	for range windowRecords/500 + 1 {
		publishSpooled(t, b, events(500, "booking.changed")...)
	}
	publishSpooled(t, b, events(10, "invoice.issued")...)
	server.StartAgain(t)
	awaitState(t, b, StateDraining)
	awaitFact(t, "the other stream", func() bool { return len(records(t, b, Query{Streams: []string{"invoice"}, Source: FromRedis})) == 10 })
	close(goOn)
	awaitState(t, b, StateDurable)
}

// A spool that can't be read is no outage of Redis: health says so.
func TestP03UnreadableSpoolIsTold(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	b := openBus(t, Config{Redis: server.Options(), SpoolDir: t.TempDir()})
	server.Kill(t)
	awaitState(t, b, StateSpooling)
	publishSpooled(t, b, Event{ID: "1", Type: "booking.created"})
	segments, err := filepath.Glob(filepath.Join(b.spool.log.Dir(), "*.log"))
	if err != nil || len(segments) == 0 {
		t.Fatal(segments, err)
	}
	for _, path := range segments {
		if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil { // a folder can't be read as a file
			t.Fatal(err)
		}
	}
	server.StartAgain(t)
	awaitFact(t, "the problem", func() bool {
		return strings.Contains(fmt.Sprint(b.Health(t.Context()).Problems), "spool can't be drained: read spool")
	})
}
