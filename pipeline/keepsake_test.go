package pipeline

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/rishi-platform/millrace/internal/redistest"
)

// drainedBus returns a bus that has drained n events to two streams in turns, more than it keeps in memory.
func drainedBus(t *testing.T, server *redistest.Server, dir string, n int) (b *Bus, want map[string][]string) {
	t.Helper()
	b = openBus(t, Config{Redis: server.Options(), SpoolDir: dir, RestoreEvents: 100})
	server.Kill(t)
	awaitState(t, b, StateSpooling)
	want = map[string][]string{}
	for i := 0; i < n; {
		var batch []Event
		for range 500 {
			stream, id := fmt.Sprint("s", i%2), fmt.Sprintf("%06d", i)
			batch = append(batch, Event{ID: id, Type: stream + ".step"})
			want[stream] = append(want[stream], id)
			i++
		}
		publishSpooled(t, b, batch...)
	}
	server.StartAgain(t)
	awaitState(t, b, StateDurable)
	return b, want
}

// awaitRoom waits until the room of all that is drained is given back, as if the marks had been seen once more.
func awaitRoom(t *testing.T, b *Bus) {
	t.Helper()
	awaitFact(t, "room in the spool", func() bool {
		b.spool.marksSeen(time.Now().Add(time.Minute), false)
		return b.spool.log.Stats().Records == 0
	})
}

// A Redis that takes all that was spooled and dies again, without having kept anything: all of it is restored, in its order, and the numbers are exact.
func TestP07DrainedEventsAreRestoredFromTheDisk(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--save", "", "--appendonly", "no")
	const n = 6000
	b, want := drainedBus(t, server, t.TempDir(), n)
	server.Restart(t)
	b.link.suspect()
	for stream, ids := range want {
		awaitFact(t, "stream "+stream, func() bool {
			got := map[string]bool{}
			for r, err := range b.History(t.Context(), Query{Streams: []string{stream}}) {
				if err != nil {
					return false
				}
				got[r.Event.ID] = true
			}
			return len(got) == len(ids)
		})
		var got []string
		for r, err := range b.History(t.Context(), Query{Streams: []string{stream}, Source: FromRedis}) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, r.Event.ID)
		}
		if !slices.Equal(got, ids) {
			t.Errorf("stream %s has %d events, want %d in their order", stream, len(got), len(ids))
		}
	}
	awaitFact(t, "what health says", func() bool {
		events, restored := 0, 0
		for _, l := range b.Health(t.Context()).Lost {
			if l.Stream == SystemStream {
				continue
			}
			if l.AtLeast {
				t.Fatalf("%+v", l)
			}
			events, restored = events+l.Events, restored+l.Restored
		}
		return events == n && restored == n
	})
}

// What is drained goes when its marks were seen once more, long enough after.
func TestP07DrainedRoomIsGivenBack(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--save", "", "--appendonly", "no")
	b, _ := drainedBus(t, server, t.TempDir(), 1000)
	stats := b.spool.log.Stats()
	if stats.Records < 1000 {
		t.Errorf("%d records are kept", stats.Records)
	}
	b.spool.marksSeen(time.Now(), false)
	if b.spool.isReleased(0) {
		t.Error("it goes at once")
	}
	let := b.spool.holdKept()
	b.spool.marksSeen(time.Now().Add(keepDrained+time.Second), false)
	if b.spool.isReleased(0) {
		t.Error("it goes while something is restored from it")
	}
	let()
	b.spool.marksSeen(time.Now().Add(keepDrained+time.Second), false)
	awaitFact(t, "room", func() bool { s := b.spool.log.Stats(); return s.Records == 0 && s.Bytes < stats.Bytes })
}

// A bus that ends leaves nothing behind that is in Redis.
func TestP07EndGivesTheRoomBack(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--save", "", "--appendonly", "no")
	dir := t.TempDir()
	b, _ := drainedBus(t, server, dir, 1000)
	if err := b.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	slots, err := SpoolSlots(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, slot := range slots {
		if slot.Events > 0 {
			t.Errorf("%+v", slot)
		}
	}
}
