package pipeline

import (
	"context"
	"slices"
	"testing"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// A stream that is trimmed before a group has read it: what was handled and what is lost is
// together all that was accepted, for each group, and health says so.
func TestG18TrimIsCountedAndSaid(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		const accepted, limit = 2000, 200
		b := open(func(cfg *Config) {
			cfg.LocalMaxLen = limit
			cfg.MaxLen, cfg.HardMaxLen = limit/2, limit/2 // an append trims at twice the last
		})
		groups := []string{"early", "late"}
		handled := map[string]*tally{}
		handledBy := func(group string) int {
			handled[group].mu.Lock()
			defer handled[group].mu.Unlock()
			return len(handled[group].count)
		}
		infoOf := func(group string) redisstream.GroupInfo {
			t.Helper()
			groups, err := b.log.Groups(t.Context(), "booking")
			named := func(g redisstream.GroupInfo) bool { return g.Name == group }
			i := slices.IndexFunc(groups, named)
			if err != nil || i < 0 {
				t.Fatal(groups, err)
			}
			return groups[i]
		}
		consumeAll := func(group string, most int) {
			t.Helper()
			before := handledBy(group)
			g := GroupConfig{Group: group, Patterns: []string{"booking.*"}}
			sub := handle(t, b, g, "booking", func(_ context.Context, d *Delivery) error {
				handled[group].add(d.Event.ID)
				return nil
			})
			handled[group].await(t, before+most)
			awaitSettled(t, b, "booking", group)
			_ = sub.Close()
		}
		for _, group := range groups {
			handled[group] = newTally()
			g := GroupConfig{Group: group, Patterns: []string{"booking.*"}}
			_ = consumeNothing(t, b, g).Close()
		}
		all := events(accepted, "booking.created")
		publish(t, b, all[:150]...)
		consumeAll("early", 150)
		if h := b.Health(t.Context()); hasProblem(h, "events-lost") {
			t.Errorf("nothing is lost yet: %+v", h.Problems)
		}
		publish(t, b, all[150:]...)
		for _, group := range groups {
			kept := int(infoOf(group).Lag)
			consumeAll(group, kept)
			lost := infoOf(group).Lost
			if n := handledBy(group); int64(n)+lost != accepted || kept == 0 {
				t.Errorf("group %s: %d handled, %d lost of %d accepted", group, n, lost, accepted)
			}
		}
		if h := b.Health(t.Context()); !hasProblem(h, "events-lost") || h.Status == StatusHealthy {
			t.Errorf("health is %s: %+v", h.Status, h.Problems)
		}
	})
}
