package redisstream

import (
	"fmt"
	"testing"

	"github.com/rishi-platform/millrace/internal/redistest"
)

// The events of a drain stand where it says, however long the script takes: on Redis 7.0 the time of "*"
// goes on meanwhile.
func TestP08DrainedEventsStandWhereItSays(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c := New(Config{Redis: server.Options(), MaxLen: 1_000_000})
	t.Cleanup(func() { _ = c.Close() })
	const drains, events = 5, 4000
	var want []ID
	for seq := range uint64(drains) {
		messages := make([]Message, events)
		for i := range messages {
			messages[i] = Message{UUID: fmt.Sprint(seq, "-", i), Payload: "{}"}
		}
		done, _, first, err := c.Drain(t.Context(), "booking", Writer{Name: "spool", Seq: seq + 1}, seq, messages)
		if !done || err != nil {
			t.Fatal(done, err)
		}
		for i := range messages {
			want = append(want, first.Plus(i))
		}
	}
	entries, err := c.Range(t.Context(), "booking", ID{}, MaxID, len(want)+1, false)
	if err != nil || len(entries) != len(want) {
		t.Fatalf("%d entries, want %d; %v", len(entries), len(want), err)
	}
	for i, e := range entries {
		if e.ID != want[i] {
			t.Fatalf("event %d stands at %s, and was said to stand at %s", i, e.ID, want[i])
		}
	}
}
