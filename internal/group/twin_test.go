package group

import (
	"testing"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// away is a link to a server that is so far away.
type away time.Duration

func (away) Suspect()                   {}
func (a away) RoundTrip() time.Duration { return time.Duration(a) }

// newTestReader returns the only reader of a consumer whose server is so far away.
func newTestReader(trip time.Duration) *reader {
	c := &Consumer{host: Host{Link: away(trip)}, link: away(trip), twins: true}
	r := &reader{consumer: c, twin: make(chan struct{}, 1)}
	c.readers = []*reader{r}
	return r
}

// brings lets a read bring entries of 1 KiB.
func (r *reader) brings(n int) {
	read := make([]redisstream.Delivered, n)
	for i := range read {
		read[i].Entry = redisstream.Message{Payload: string(make([]byte, 1<<10))}.Entry(redisstream.ID{MS: 1})
	}
	r.learn(readPlan{count: n, all: true}, read)
}

// A near server is read by one read at a time, unless reads are heavy.
func TestG16FarServerIsReadTwice(t *testing.T) {
	t.Parallel()
	if newTestReader(90*time.Microsecond).isTwinned() || !newTestReader(2*time.Millisecond).isTwinned() {
		t.Error("a near server counts as far, or a far one as near")
	}
}

func TestG16SecondReadWhereReadsAreHeavy(t *testing.T) {
	t.Parallel()
	r := newTestReader(90 * time.Microsecond)
	for _, step := range []struct {
		entries int
		twinned bool
	}{{10, false}, {20, true}, {10, true}, {2, false}, {10, false}} {
		if r.brings(step.entries); r.isTwinned() != step.twinned {
			t.Errorf("a read of %d KiB: twinned %t, want %t", step.entries, !step.twinned, step.twinned)
		}
	}
	if len(r.twin) != 1 {
		t.Error("nobody has woken the second reader")
	}
}

// What one read brings fits the way: more of it only spills caches.
func TestG16ReadIsAsLargeAsTheWayIsLong(t *testing.T) {
	t.Parallel()
	for trip, want := range map[time.Duration]int{
		90 * time.Microsecond: 124,      // 128 KiB of entries that count as 1 KiB and a little
		8 * time.Millisecond:  8 * 124,  // for each millisecond
		time.Second:           32 * 124, // 4 MiB at most
	} {
		r := newTestReader(trip)
		for range 20 { // the first guess of an entry's size is large
			r.consumer.budget.brought(100, 100*1055)
		}
		if got := r.plan([]string{"booking"}, 1_000_000).count; got < want || got > want*103/100 {
			t.Errorf("%s away: %d entries, want about %d", trip, got, want)
		}
	}
}

// 64 streams of entries of 16 KiB are read together, not in turn, however near the server is.
func TestG16NearStreamsAreReadTogether(t *testing.T) {
	t.Parallel()
	r := newTestReader(90 * time.Microsecond)
	for range 20 {
		r.consumer.budget.brought(10, 10*16<<10)
	}
	streams := make([]string, 64)
	for i := range streams {
		streams[i] = string(rune('a' + i))
	}
	if p := r.plan(streams, 1_000); p.inTurn || p.count != 1 {
		t.Errorf("in turn %t, %d of each; want one of each at once", p.inTurn, p.count)
	}
}
