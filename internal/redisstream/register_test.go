package redisstream

import (
	"testing"
	"time"

	"github.com/rishi-platform/millrace/internal/redistest"
)

// A stream that is being entered into the registry is not in it yet, and a shard that is away may take long to refuse it.
func TestP11StreamsStayNamedWhileTheyAreBeingEntered(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c := New(Config{Redis: server.Options(), MaxLen: 1000, Appends: 1})
	t.Cleanup(func() { _ = c.Close() })
	entering := &underWay{}
	c.appends.AddHook(entering)
	server.Freeze(t)
	c.registrar.add(c.targets.of(c, "fresh"))
	entering.await(t, 1)
	if got := c.Unregistered(); len(got) != 1 || got[0] != "fresh" {
		t.Errorf("while it is being entered %q are unregistered", got)
	}
	server.Thaw(t)
	for deadline := time.Now().Add(10 * time.Second); len(c.Unregistered()) > 0; <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it stays unregistered")
		}
	}
}
