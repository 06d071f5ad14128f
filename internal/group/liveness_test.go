package group

import (
	"testing"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// The one who makes the probes of a paused group has died, and is still listed, for whatever reason: nobody waits until he is removed.
func TestG03ProbesAreInheritedFromTheDead(t *testing.T) {
	eachLog(t, func(t *testing.T, log transport) {
		c := newTestConsumer(t, log, "booking.*")
		join := redisstream.Join{Stream: "booking", Patterns: c.cfg.Patterns} // and no beat, which would inherit them as well
		if _, err := log.Join(t.Context(), c.self, join); err != nil {
			t.Fatal(err)
		}
		text := pausedBy("prober").Text()
		if done, err := log.Pause(t.Context(), "booking", "g", "", text); !done || err != nil {
			t.Fatal(done, err)
		}
		m := &membership{stream: "booking"}
		m.pause.self = c.self.Name
		c.heardPause(m, text, time.Now())
		prober := func() string {
			groups, err := log.Groups(t.Context(), "booking")
			if err != nil || len(groups) != 1 || groups[0].Paused == "" {
				t.Fatal(groups, err)
			}
			return ParsePause(groups[0].Paused).Consumer
		}
		inherit := func(listed, dead []redisstream.Peer) {
			c.inherit(m, listed, dead)
			awaitWritten(t, c, m)
		}
		listed := []redisstream.Peer{{Name: "another", Beat: 2}, {Name: "prober", Beat: 1}}

		for _, dead := range [][]redisstream.Peer{nil, listed[:1]} {
			inherit(listed, dead)
			if p := prober(); p != "prober" {
				t.Fatalf("with %v dead, %s makes the probes, want the one who lives", dead, p)
			}
		}
		inherit(listed, listed[1:])
		if p := prober(); p != "prober" {
			t.Errorf("%s makes the probes at once, and others may have something to try", p)
		}
		m.pause.vacant = m.pause.vacant.Add(-vacantFor)
		inherit(listed, listed[1:])
		if p := prober(); p != c.self.Name {
			t.Errorf("%s makes the probes, want this consumer", p)
		}
		if c.holdings.mu.Lock(); !m.pause.mayProbe(time.Now().Add(probeFirst)) {
			t.Error("it makes no probe")
		}
		c.holdings.mu.Unlock()
	})
}

// awaitWritten waits until what a consumer has decided about a pause is written.
func awaitWritten(t *testing.T, c *Consumer, m *membership) {
	t.Helper()
	for written := false; !written; {
		if t.Context().Err() != nil {
			t.Fatal("it is not written")
		}
		c.holdings.mu.Lock()
		written = m.pause.writing == ""
		c.holdings.mu.Unlock()
	}
}
