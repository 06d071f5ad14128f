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
	if s := b.spool.log.Stats(); s.Records != 0 {
		t.Errorf("spool is not empty: %+v", s)
	}
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
	b := openBus(t, Config{Redis: server.Options(), SpoolDir: t.TempDir()})
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
	if h.State != StateDraining || h.Spool.Events != n || !strings.Contains(fmt.Sprint(h.Problems), "stream refused: WRONGTYPE") {
		t.Errorf("state %s, spool %+v, problems %+v", h.State, h.Spool, h.Problems)
	}
	if s := b.spool.log.Stats(); s.First > 2 { // record 1 tells of the outage
		t.Errorf("what stands before record %d counts as drained", s.First)
	}
	publish(t, b, Event{ID: fmt.Sprint(next + 1), Type: "booking.created", Subject: "s"})
	if err := client.Del(t.Context(), "refused").Err(); err != nil {
		t.Fatal(err)
	}
	awaitState(t, b, StateDurable)
	wantInOrder(t, b, next+1)
	if h := b.Health(t.Context()); hasProblem(h, "spool-stuck") {
		t.Errorf("problems %+v", h.Problems)
	}
}

// slotOf makes a slot as a process leaves it that has ended, with these records.
func slotOf(t *testing.T, cfg Config, records ...[]byte) *spool.Log {
	t.Helper()
	b := &Bus{cfg: cfg}
	log, err := spool.Open(b.spoolDir(), b.server(), spool.Options{})
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

// What another version has written is named and stays where it is; all else is drained, and the next slot.
func TestP04UnreadableRecordsStay(t *testing.T) {
	t.Parallel()
	ofAnotherVersion := []byte{spoolVersion + 1, 'x'}
	for name, slots := range map[string][][][]byte{
		"own":     {{recordOf("booking", "1"), ofAnotherVersion, recordOf("booking", "2")}},
		"adopted": {nil, {recordOf("booking", "1"), ofAnotherVersion, ofAnotherVersion}, {recordOf("booking", "2")}},
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
			b := openBus(t, cfg)
			awaitFact(t, "what can be read", func() bool { return len(records(t, b, Query{Streams: []string{"booking"}})) == 2 })
			awaitFact(t, "the problem", func() bool {
				h := b.Health(t.Context())
				return h.State == StateDurable && strings.Contains(fmt.Sprint(h.Problems), "of another version")
			})
			dir := logs[min(1, len(logs)-1)].Dir()
			found := 0
			if err := spool.Export(dir, func(r spool.Record) error {
				if bytes.Equal(r.Data, ofAnotherVersion) {
					found++
				}
				return nil
			}); err != nil || found == 0 {
				t.Errorf("%d records of another version are left; %v", found, err)
			}
		})
	}
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
		if err := os.Rename(path, path+".moved"); err != nil {
			t.Fatal(err)
		}
	}
	server.StartAgain(t)
	awaitFact(t, "the problem", func() bool {
		return strings.Contains(fmt.Sprint(b.Health(t.Context()).Problems), "spool can't be drained: read spool")
	})
}
