package pipeline

import (
	"strings"
	"testing"

	"github.com/rishi-platform/millrace/internal/redistest"
)

// The marks of a one-shot process are those that Redis forgets soon, whatever it publishes.
func TestP13OneShotLeavesBriefMarks(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := server.Client(t)
	b := openBus(t, Config{Redis: server.Options(), OneShot: true})
	publish(t, b, Event{Type: "booking.created"})
	if _, err := b.PublishWith(t.Context(), PublishOptions{Key: "k"}, Event{Type: "booking.created"}); err != nil {
		t.Fatal(err)
	}
	writers := client.HKeys(t.Context(), "{booking}:writers").Val()
	for _, writer := range writers {
		if !strings.HasPrefix(writer, "~") {
			t.Errorf("mark of %s", writer)
		}
	}
	if len(writers) == 0 {
		t.Error("no marks")
	}
	if err := b.RemoveStream(t.Context(), "booking"); err != nil {
		t.Fatal(err)
	}
	if client.Exists(t.Context(), "{booking}:removed").Val() != 0 {
		t.Error("its own stream is noted as removed from somebody else")
	}
	if _, err := Open(t.Context(), Config{Redis: server.Options(), OneShot: true, SpoolDir: t.TempDir()}); err == nil {
		t.Error("a spool needs marks that stay")
	}
}

// A mark that Redis has forgotten in its time says nothing about what was stored.
func TestP13ForgottenBriefMarkIsNoLoss(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	b := openBus(t, Config{Redis: server.Options(), OneShot: true})
	publish(t, b, Event{Type: "booking.created"})
	b.confirmed.mu.Lock()
	for writer, mark := range b.confirmed.streams["booking"].marks {
		mark.at = mark.at.Add(-briefMarkFor)
		b.confirmed.streams["booking"].marks[writer] = mark
	}
	b.confirmed.mu.Unlock()
	if err := server.Client(t).Del(t.Context(), "{booking}:writers").Err(); err != nil {
		t.Fatal(err)
	}
	publish(t, b, Event{Type: "booking.created"})
	b.compareMarks("booking")
	if f := b.confirmed.takeForgotten("booking"); !f.isEmpty() {
		t.Errorf("%+v is taken for lost", f)
	}
}
