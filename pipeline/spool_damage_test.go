package pipeline

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rishi-platform/millrace/internal/redistest"
	"github.com/rishi-platform/millrace/internal/spool"
)

// Two processes of which one has a copy of the other's data folder, and one whose folder was restored, lose nothing and store nothing twice.
func TestP02CopiedFolderLosesNothing(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	server.Kill(t)
	dirs := []string{t.TempDir(), t.TempDir()}
	var want []string
	spool := func(dir, prefix string, n int) *Bus {
		b := openBus(t, Config{Redis: server.Options(), SpoolDir: dir})
		for i := range n {
			id := fmt.Sprint(prefix, i)
			want = append(want, id)
			publishSpooled(t, b, Event{ID: id, Type: "booking.created", Subject: fmt.Sprint(i % 3)})
		}
		return b
	}
	closeBus(t, spool(dirs[0], "before-", 50))
	if err := os.CopyFS(dirs[1], os.DirFS(dirs[0])); err != nil {
		t.Fatal(err)
	}
	one, two := spool(dirs[0], "one-", 30), spool(dirs[1], "two-", 40)
	server.StartAgain(t)
	awaitState(t, one, StateDurable)
	awaitState(t, two, StateDurable)
	got := ids(records(t, one, Query{Streams: []string{"booking"}, Source: FromRedis}))
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%d are stored, want the %d that were accepted, each once", len(got), len(want))
	}
}

// A record that the disk does not give back is passed over, counted and kept; all others are drained.
func TestP03DamagedRecordIsPassedOverAndCounted(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	lost := make(chan Loss, 10)
	b := openBus(t, Config{Redis: server.Options(), SpoolDir: t.TempDir(), Hooks: Hooks{Lost: func(l Loss) { lost <- l }}})
	server.Kill(t)
	awaitState(t, b, StateSpooling)
	for i := range 100 {
		publishSpooled(t, b, Event{ID: fmt.Sprintf("event-%02d", i), Type: "booking.created", Subject: "s"})
	}
	segments, err := filepath.Glob(filepath.Join(b.spool.log.Dir(), "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(segments[len(segments)-1])
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(content, []byte("event-50"))
	file, err := os.OpenFile(segments[len(segments)-1], os.O_WRONLY, 0)
	if err == nil {
		_, err = file.WriteAt([]byte("E"), int64(at))
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	server.StartAgain(t)
	awaitState(t, b, StateDurable)
	got := ids(records(t, b, Query{Streams: []string{"booking"}, Source: FromRedis}))
	if len(got) != 99 || slices.Contains(got, "event-50") {
		t.Errorf("%d are stored", len(got))
	}
	if l := within(t, "the loss", lost); l.Reason != ReasonDamaged || l.Events != 1 {
		t.Errorf("lost %+v", l)
	}
	h := b.Health(t.Context())
	if len(h.Lost) != 1 || !hasProblem(h, "spool-damaged") || hasProblem(h, "spool-stuck") || h.Spool.Events != 0 {
		t.Errorf("health %+v", h)
	}
	if r := publish(t, b, Event{ID: "next", Type: "booking.created", Subject: "s"}); r.Durability() != Stored {
		t.Errorf("the next one of its subject is %v", r.Durability())
	}
}

// While the folder is gone nothing is answered as spooled. When it is there again so is the spool, though nothing is published, and what
// stood in it is told.
func TestP03FolderIsRemoved(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	b := openBus(t, Config{Redis: server.Options(), SpoolDir: t.TempDir()})
	server.Kill(t)
	awaitState(t, b, StateSpooling)
	publishSpooled(t, b, Event{ID: "gone", Type: "booking.created"})
	if err := os.RemoveAll(b.spool.log.Dir()); err != nil {
		t.Fatal(err)
	}
	r, err := b.Publish(t.Context(), Event{Type: "booking.created"})
	if !errors.Is(err, ErrSpoolFailed) || r.Durability() != Refused {
		t.Fatalf("it is %v, %v", r.Durability(), err)
	}
	if h := b.Health(t.Context()); h.Status != StatusUnhealthy || !hasProblem(h, "spool-error") || !errors.Is(b.Ready(), ErrSpoolFailed) {
		t.Errorf("%s, %v", h.Status, h.Problems)
	}
	server.StartAgain(t)
	awaitState(t, b, StateDurable)
	if h := b.Health(t.Context()); h.Status != StatusDegraded || !hasProblem(h, "spool-error") || b.Ready() != nil {
		t.Errorf("publishing works, and it is %s, %v, %v", h.Status, h.Problems, b.Ready())
	}
	if h := b.Health(t.Context()); len(h.Lost) != 1 || h.Lost[0].Reason != ReasonDamaged {
		t.Errorf("lost %+v", h.Lost)
	}
	if err := os.Mkdir(b.spool.log.Dir(), 0o700); err != nil {
		t.Fatal(err)
	}
	awaitFact(t, "the spool to be there", func() bool { return !hasProblem(b.Health(t.Context()), "spool-error") })
	server.Kill(t)
	awaitState(t, b, StateSpooling)
	publishSpooled(t, b, Event{ID: "kept", Type: "booking.created"})
	server.StartAgain(t)
	awaitState(t, b, StateDurable)
	if got := ids(records(t, b, Query{Streams: []string{"booking"}, Source: FromRedis})); !slices.Contains(got, "kept") {
		t.Errorf("stored %v", got)
	}
}

// A spool that could not be written is tried again though nothing is published or drained.
func TestP09SpoolHealsByItself(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	b := openBus(t, Config{Redis: server.Options(), SpoolDir: t.TempDir()})
	if err := os.RemoveAll(b.spool.log.Dir()); err != nil { // before anything stands in it
		t.Fatal(err)
	}
	server.Kill(t)
	awaitState(t, b, StateSpooling)
	if _, err := b.Publish(t.Context(), Event{Type: "booking.created"}); !errors.Is(err, ErrSpoolFailed) {
		t.Fatal(err)
	}
	server.StartAgain(t)
	awaitState(t, b, StateDurable)
	if h := b.Health(t.Context()); !hasProblem(h, "spool-error") {
		t.Errorf("problems %v", h.Problems)
	}
	if err := os.Mkdir(b.spool.log.Dir(), 0o700); err != nil {
		t.Fatal(err)
	}
	awaitFact(t, "the spool to be there", func() bool { return !hasProblem(b.Health(t.Context()), "spool-error") })
}

// What can't be read any more stands right before what is of another version: the first is lost, the second stays, and other slots have
// their turn.
func TestP04DamageBeforeWhatStays(t *testing.T) {
	t.Parallel()
	cfg := Config{Redis: redistest.Shared(t).Options(), Namespace: redistest.Namespace(t), SpoolDir: t.TempDir()}
	logs := []*spool.Log{slotOf(t, cfg, recordOf("booking", "1"), recordOf("booking", "damaged"), []byte{spoolVersion + 1, 'x'}), slotOf(t, cfg, recordOf("booking", "2"))}
	for _, log := range logs {
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
	}
	segments, err := filepath.Glob(filepath.Join(logs[0].Dir(), "*.log"))
	if err != nil || len(segments) != 1 {
		t.Fatal(segments, err)
	}
	content, err := os.ReadFile(segments[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(segments[0], bytes.Replace(content, []byte("damaged"), []byte("DAMAGED"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	b := openBus(t, cfg)
	awaitFact(t, "what can be read of both slots", func() bool { return len(records(t, b, Query{Streams: []string{"booking"}})) == 2 })
	awaitFact(t, "what stays", func() bool {
		h := b.Health(t.Context())
		return strings.Contains(problemText(h, "spool-stuck"), "1 records stay") && hasProblem(h, "spool-damaged") && len(h.Lost) == 1
	})
}
