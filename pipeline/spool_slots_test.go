package pipeline

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rishi-platform/millrace/internal/redistest"
	"github.com/rishi-platform/millrace/internal/spool"
)

// spooledBy spools an event in a slot of its own, and ends.
func spooledBy(t *testing.T, cfg Config, id string) (slot string) {
	t.Helper()
	b := openBus(t, cfg)
	publishSpooled(t, b, Event{ID: id, Type: "booking.created"})
	closeBus(t, b)
	return b.spool.log.Dir()
}

// away is the address of a Redis that is not there.
func away(t *testing.T) Config {
	t.Helper()
	server := redistest.Start(t)
	server.Kill(t)
	return Config{Redis: server.Options()}
}

// A process has a slot in front of those that are for another Redis, or of which nobody knows for which; they come while it runs.
func TestP05SlotsBehindTheOwnAreNamed(t *testing.T) {
	t.Parallel()
	cfg := Config{Redis: redistest.Shared(t).Options(), Namespace: redistest.Namespace(t), SpoolDir: t.TempDir()}
	b := openBus(t, cfg)
	other := away(t)
	other.Namespace, other.SpoolDir = cfg.Namespace, cfg.SpoolDir
	foreign := spooledBy(t, other, "e")
	b.spool.survey()
	if text := problemText(b.Health(t.Context()), "spool-of-another-redis"); !strings.Contains(text, foreign) || !strings.Contains(text, other.Redis.Addrs[0]) {
		t.Errorf("got %q", text)
	}
	if err := os.Truncate(filepath.Join(foreign, "owner"), 0); err != nil {
		t.Fatal(err)
	}
	b.spool.survey()
	h := b.Health(t.Context())
	if text := problemText(h, "spool-stuck"); !strings.Contains(text, foreign) || hasProblem(h, "spool-of-another-redis") {
		t.Errorf("got %+v", h.Problems)
	}
	if err := os.Remove(filepath.Join(foreign, "owner")); err != nil {
		t.Fatal(err)
	}
	b.spool.survey()
	if text := problemText(b.Health(t.Context()), "spool-stuck"); !strings.Contains(text, foreign) {
		t.Errorf("got %q", text)
	}
}

// A slot of which nobody knows for which Redis it is keeps no process from starting, and hides none behind it. It can be given to one.
func TestP05EmptyOwnerHidesNothing(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	server.Kill(t)
	cfg := Config{Redis: server.Options(), SpoolDir: t.TempDir()}
	first := openBus(t, cfg)
	behind := spooledBy(t, cfg, "behind")
	publishSpooled(t, first, Event{ID: "in-front", Type: "booking.created"})
	closeBus(t, first)
	bad := first.spool.log.Dir()
	if err := os.Truncate(filepath.Join(bad, "owner"), 0); err != nil {
		t.Fatal(err)
	}
	slots, err := SpoolSlots(cfg.SpoolDir)
	if err != nil || len(slots) != 2 || slots[0].Dir != bad || slots[0].Trouble == "" || slots[0].Events == 0 || slots[1].Dir != behind || slots[1].Trouble != "" {
		t.Errorf("slots %+v, %v", slots, err)
	}
	server.StartAgain(t)
	b := openBus(t, cfg)
	if b.spool.log.Dir() != behind {
		t.Errorf("it has %s", b.spool.log.Dir())
	}
	stored := func() []string { return ids(published(t, b, Query{Source: FromRedis})) }
	awaitFact(t, "what stands behind", func() bool { return slices.Contains(stored(), "behind") })
	if text := problemText(b.Health(t.Context()), "spool-stuck"); !strings.Contains(text, bad) {
		t.Errorf("got %q", text)
	}
	to, err := FindSpoolServer(t.Context(), cfg)
	if err := errors.Join(err, AssignSpool(bad, to)); err != nil {
		t.Fatal(err)
	}
	awaitFact(t, "what nobody could drain", func() bool { return slices.Contains(stored(), "in-front") })
	b.spool.survey()
	if h := b.Health(t.Context()); hasProblem(h, "spool-stuck") {
		t.Errorf("problems %+v", h.Problems)
	}
}

// Redis is known under another name, by the ID that is kept in it: at the start, or at the first contact after that.
func TestP05RedisIsKnownByItsID(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	cfg := Config{Redis: server.Options(), SpoolDir: t.TempDir()}
	renamed := cfg
	renamed.Redis = server.Options()
	renamed.Redis.Addrs = []string{"localhost" + server.Addr()[len("127.0.0.1"):]}
	b := openBus(t, cfg)
	slot := b.spool.log.Dir()
	to, err := FindSpoolServer(t.Context(), renamed)
	if err != nil || to.ID == "" {
		t.Fatalf("%+v, %v", to, err)
	}
	awaitFact(t, "the ID of the server in the slot", func() bool { return b.spool.server().ID == to.ID })
	server.Kill(t)
	awaitState(t, b, StateSpooling)
	publishSpooled(t, b, Event{ID: "e", Type: "booking.created"})
	closeBus(t, b)

	unaware := openBus(t, renamed)
	if unaware.spool.log.Dir() == slot {
		t.Error("it took the slot of another address")
	}
	if text := problemText(unaware.Health(t.Context()), "spool-of-another-redis"); !strings.Contains(text, slot) {
		t.Errorf("got %q", text)
	}
	server.StartAgain(t)
	awaitFact(t, "the event", func() bool { return slices.Contains(ids(published(t, unaware, Query{Source: FromRedis})), "e") })
	unaware.spool.survey()
	if h := unaware.Health(t.Context()); hasProblem(h, "spool-of-another-redis") {
		t.Errorf("problems %+v", h.Problems)
	}

	slots, err := SpoolSlots(cfg.SpoolDir)
	if err != nil || len(slots) != 2 || slots[0].Dir != slot || !to.Drains(slots[0]) {
		t.Fatalf("slots %+v, %v", slots, err)
	}
	server.Kill(t)
	awaitState(t, unaware, StateSpooling)
	publishSpooled(t, unaware, Event{ID: "f", Type: "booking.created"})
	closeBus(t, unaware)
	server.StartAgain(t)
	b = openBus(t, cfg)
	awaitFact(t, "the event", func() bool { return slices.Contains(ids(published(t, b, Query{Source: FromRedis})), "f") })
	if slots, err := SpoolSlots(cfg.SpoolDir); err != nil || len(slots) != 2 {
		t.Errorf("slots %+v, %v", slots, err)
	}
}

// A server that has lost what it kept gets the ID again by which its slots are known.
func TestP05LostIDIsGivenAgain(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	b := openBus(t, Config{Redis: server.Options(), SpoolDir: t.TempDir()})
	known := b.spool.server()
	if known.ID == "" {
		t.Fatal("it has no ID")
	}
	if err := server.Client(t).FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	b.spool.identify()
	if id, err := b.redis.ServerID(t.Context(), ""); err != nil || id != known.ID {
		t.Errorf("it has %q now, %v; want %q", id, err, known.ID)
	}
}

// Who looks at spools makes nothing, and needs no right to write.
func TestP05LookingMakesNothing(t *testing.T) {
	t.Parallel()
	cfg := away(t)
	cfg.SpoolDir = t.TempDir()
	slot := spooledBy(t, cfg, "e")
	if err := os.Remove(filepath.Join(slot, "lock")); err != nil { // it is a copy
		t.Fatal(err)
	}
	for _, dir := range []string{slot, filepath.Dir(slot)} {
		if err := os.Chmod(dir, 0o500); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Chmod(dir, 0o700) })
	}
	before := tree(t, cfg.SpoolDir)
	slots, err := SpoolSlots(cfg.SpoolDir)
	if err != nil || len(slots) != 1 || slots[0].Events == 0 || slots[0].Trouble != "" || slots[0].InUse {
		t.Errorf("slots %+v, %v", slots, err)
	}
	n := 0
	for _, err := range SpooledEvents(slot) {
		if n++; err != nil {
			t.Error(err)
		}
	}
	if n != slots[0].Events {
		t.Errorf("%d events, want %d", n, slots[0].Events)
	}
	if after := tree(t, cfg.SpoolDir); !slices.Equal(before, after) {
		t.Errorf("there were %v, and are %v", before, after)
	}
}

// tree names the files below a folder, with their times.
func tree(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		info, infoErr := d.Info()
		names = append(names, path+" "+info.ModTime().Format(time.RFC3339Nano))
		return errors.Join(err, infoErr)
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// A slot in which nothing stands is taken, whoever had it.
func TestP05EmptySlotsAreUsedAgain(t *testing.T) {
	t.Parallel()
	cfg := Config{Redis: redistest.Shared(t).Options(), Namespace: redistest.Namespace(t), SpoolDir: t.TempDir()}
	other, err := spool.Open((&Bus{cfg: cfg}).spoolDir(), spool.Server{Address: "elsewhere"}, spool.Options{})
	if err := errors.Join(err, other.Close()); err != nil {
		t.Fatal(err)
	}
	if b := openBus(t, cfg); b.spool.log.Dir() != other.Dir() {
		t.Errorf("it has %s", b.spool.log.Dir())
	}
}

// A slot that Redis refuses holds up no other.
func TestP05StuckSlotHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	cfg := Config{Redis: redistest.Shared(t).Options(), Namespace: redistest.Namespace(t), SpoolDir: t.TempDir()}
	if err := redistest.Shared(t).Client(t).Set(t.Context(), cfg.Namespace+":refused", "x", 0).Err(); err != nil {
		t.Fatal(err)
	}
	logs := []*spool.Log{slotOf(t, cfg), slotOf(t, cfg, recordOf("refused", "1")), slotOf(t, cfg, recordOf("booking", "2"))}
	for _, log := range logs {
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
	}
	b := openBus(t, cfg)
	awaitFact(t, "the event behind", func() bool { return len(records(t, b, Query{Streams: []string{"booking"}})) == 1 })
	awaitFact(t, "the problem", func() bool { return strings.Contains(problemText(b.Health(t.Context()), "spool-stuck"), "refused") })
}

// A slot that waits for long to be adopted is named.
func TestP05SlotThatWaitsIsNamed(t *testing.T) {
	t.Parallel()
	cfg := Config{Redis: redistest.Shared(t).Options(), Namespace: redistest.Namespace(t), SpoolDir: t.TempDir()}
	b := openBus(t, cfg)
	b.spool.mu.Lock()
	b.spool.slots.adopted = map[string]*spooling{"1": nil, "2": nil, "3": nil, "4": nil} // none may be adopted
	b.spool.mu.Unlock()
	log := slotOf(t, cfg, recordOf("booking", "1"))
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	b.spool.survey()
	if h := b.Health(t.Context()); hasProblem(h, "spool-stuck") {
		t.Errorf("at once: %+v", h.Problems)
	}
	b.spool.mu.Lock()
	b.spool.slots.waits[log.Dir()] = time.Now().Add(-2 * waitsLong)
	b.spool.mu.Unlock()
	b.spool.survey()
	if text := problemText(b.Health(t.Context()), "spool-stuck"); !strings.Contains(text, log.Dir()) {
		t.Errorf("got %q", text)
	}
}

// What is still being read of a dead process is not drained, though nobody knows yet how much it is.
func TestP05ASlotThatIsBeingReadCounts(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	b := openBus(t, Config{Redis: server.Options(), SpoolDir: t.TempDir()})
	b.spool.mu.Lock()
	b.spool.slots.adopted = map[string]*spooling{"of-a-dead-process": nil}
	b.spool.mu.Unlock()
	if h := b.Health(t.Context()); h.Spool.Opening != 1 {
		t.Errorf("%+v", h.Spool)
	}
	b.spool.mu.Lock()
	clear(b.spool.slots.adopted)
	b.spool.mu.Unlock()
}

// A slot that was given up this moment by who had adopted it does not wait since the beginning of time.
func TestP05SlotOfWhichNothingIsKnownHasNotWaited(t *testing.T) {
	t.Parallel()
	s := &spooling{}
	s.slots.waits = map[string]time.Time{"long": time.Now().Add(-2 * waitsLong), "short": time.Now()}
	for dir, want := range map[string]bool{"long": true, "short": false, "unknown": false} {
		if got := s.hasWaited(dir); got != want {
			t.Errorf("%s: %v, want %v", dir, got, want)
		}
	}
}
