package group

import (
	"testing"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/wire"
)

// A take-over or a fetch that is answered while its consumer may have been taken for dead keeps what is
// still the consumer's, with all that is known of it.
func TestF14AnswerFromBeforeAStall(t *testing.T) {
	eachLog(t, func(t *testing.T, log transport) {
		c := newTestConsumer(t, log, "booking.*")
		if err := c.addStream(t.Context(), "booking", false, func(string) {}); err != nil {
			t.Fatal(err)
		}
		messages := []redisstream.Message{
			wire.Encode(&wire.Event{ID: "0", Type: "booking.created"}), wire.Encode(&wire.Event{ID: "1", Type: "booking.created"}),
		}
		if _, _, err := log.Append(t.Context(), "booking", redisstream.Writer{Name: "w", Seq: 1}, messages); err != nil {
			t.Fatal(err)
		}
		read, err := log.Read(t.Context(), c.self, []string{"booking"}, 2, time.Second)
		if err != nil || len(read) != 2 {
			t.Fatal(read, err)
		}
		for i := range read {
			read[i].Claimed, read[i].Count = true, 1
		}
		if _, _, err := log.Ack(t.Context(), c.self, []redisstream.Ref{read[0].Ref}); err != nil { // as a peer that had it
			t.Fatal(err)
		}
		asked := time.Now()
		fresh := c.holdings.hold(c, read)
		lapsed := time.Now().Add(time.Millisecond).UnixNano()
		c.lapsed.Store(lapsed)
		c.membership("booking").lapsed.Store(lapsed)
		ours := c.stillOurs(fresh, asked)
		if len(ours) != 1 || ours[0].ref != read[1].Ref || ours[0].delivered != 1 || !ours[0].Claimed {
			t.Errorf("%d are this consumer's, want the suspect that nobody has settled", len(ours))
		}
		if c.Holds(read[0].Ref) || !c.Holds(read[1].Ref) {
			t.Error("what is held is not what is this consumer's")
		}
	})
}
