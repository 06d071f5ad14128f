package pipeline

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/rishi-platform/millrace/internal/spool"
)

// What Redis refuses for good can be taken out, and is told as lost; the rest is drained in its order, and nothing is left.
func TestP06DiscardIsTheWayRound(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	server.Kill(t)
	cfg := Config{Redis: server.Options(), SpoolDir: t.TempDir()}
	b := openBus(t, cfg)
	for i := range 30 {
		publishSpooled(t, b, Event{ID: fmt.Sprintf("e-%02d", i), Type: []string{"order.placed", "booking.created", "invoice.issued"}[i%3], Subject: "s"})
	}
	slot := b.spool.log.Dir()
	if _, err := DiscardSpooled(slot, "order", false); !errors.Is(err, spool.ErrInUse) {
		t.Errorf("a process has it: %v", err)
	}
	closeBus(t, b)
	for _, dry := range []bool{true, true, false} {
		if n, err := DiscardSpooled(slot, "order", dry); n != 10 || err != nil {
			t.Fatal(n, err)
		}
	}
	if n, err := DiscardSpooled(slot, "order", false); n != 0 || err != nil {
		t.Errorf("discarded again: %d, %v", n, err)
	}
	slots, err := SpoolSlots(cfg.SpoolDir)
	if err != nil || len(slots) != 1 || slots[0].Events != 20 {
		t.Errorf("slots %+v, %v", slots, err)
	}
	lost := make(chan Loss, 10)
	cfg.Hooks.Lost = func(l Loss) { lost <- l }
	server.StartAgain(t)
	b = openBus(t, cfg)
	if l := within(t, "the loss", lost); l.Reason != ReasonDiscarded || l.Stream != "order" || l.Events != 10 {
		t.Errorf("lost %+v", l)
	}
	awaitState(t, b, StateDurable)
	for _, stream := range []string{"booking", "invoice"} {
		if got := ids(records(t, b, Query{Streams: []string{stream}, Source: FromRedis})); len(got) != 10 || !slices.IsSorted(got) {
			t.Errorf("%s: %v", stream, got)
		}
	}
	if got := records(t, b, Query{Streams: []string{"order"}}); len(got) > 0 {
		t.Errorf("what was discarded is stored: %d", len(got))
	}
	awaitFact(t, "the room", func() bool { return b.spool.log.Stats().Records == 0 })
	if h := b.Health(t.Context()); len(h.Lost) != 1 || h.Spool.Events != 0 {
		t.Errorf("health %+v", h)
	}
}

// A slot of which everything was discarded is left behind, whoever has it.
func TestP06DiscardedSlotEnds(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	server.Kill(t)
	cfg := Config{Redis: server.Options(), SpoolDir: t.TempDir()}
	var buses []*Bus
	for range 2 {
		b := openBus(t, cfg)
		publishSpooled(t, b, Event{Type: "order.placed"})
		buses = append(buses, b)
	}
	for _, b := range buses {
		closeBus(t, b)
		for _, stream := range []string{"order", SystemStream} {
			if _, err := DiscardSpooled(b.spool.log.Dir(), stream, false); err != nil {
				t.Fatal(err)
			}
		}
	}
	server.StartAgain(t)
	b := openBus(t, cfg)
	awaitFact(t, "empty slots", func() bool {
		records := 0
		for _, one := range buses {
			_ = spool.Export(one.spool.log.Dir(), func(spool.Record) error { records++; return nil })
		}
		return records == 0 && b.State() == StateDurable
	})
}

// Events that are for Redis at another address can be given to it.
func TestP05SlotOfAnotherAddressIsAssigned(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	server.Kill(t)
	cfg := Config{Redis: server.Options(), SpoolDir: t.TempDir()}
	cfg.Redis.Addrs = []string{"localhost" + server.Addr()[len("127.0.0.1"):]}
	b := openBus(t, cfg)
	publishSpooled(t, b, Event{ID: "e", Type: "booking.created"})
	slot := b.spool.log.Dir()
	if err := AssignSpool(slot, SpoolServer{Address: "x"}); !errors.Is(err, spool.ErrInUse) {
		t.Errorf("a process has it: %v", err)
	}
	closeBus(t, b)
	server.StartAgain(t)
	cfg.Redis = server.Options()
	to, err := FindSpoolServer(t.Context(), cfg)
	if err := errors.Join(err, AssignSpool(slot, to)); err != nil {
		t.Fatal(err)
	}
	b = openBus(t, cfg)
	awaitState(t, b, StateDurable)
	awaitFact(t, "the event", func() bool { return slices.Contains(ids(records(t, b, Query{Streams: []string{"booking"}})), "e") })
}
