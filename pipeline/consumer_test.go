package pipeline

import (
	"testing"
	"time"

	"github.com/rishi-platform/millrace/internal/group"
	"github.com/rishi-platform/millrace/internal/redisstream"
)

// The times of a consumer that tests of the whole wait for: see internal/group.
const (
	beatEvery  = redisstream.BeatEvery
	readBlock  = redisstream.MaxBlock
	restAfter  = 10 * time.Second
	restMost   = 15 * time.Second
	sayEvery   = 30 * time.Second
	proberIdle = 5 * beatEvery
	deadAfter  = 3 * beatEvery

	promoteApart  = 50 * time.Millisecond
	promoteSpread = 20 * time.Millisecond

	othersLeast = 1000
	waitAtOnce  = 100
	walkMost    = 4
	aheadMost   = 3
)

func onlyConsumer(t *testing.T, b *Bus) *group.Consumer {
	t.Helper()
	all := b.consuming()
	if len(all) != 1 {
		t.Fatalf("bus has %d consumers", len(all))
	}
	return all[0]
}

// consumerNamed returns a consumer of the bus.
func consumerNamed(t *testing.T, b *Bus, name string) *group.Consumer {
	t.Helper()
	for _, c := range b.consuming() {
		if c.Name() == name {
			return c
		}
	}
	t.Fatalf("bus has no consumer %s", name)
	return nil
}

// pausedAll reports whether all consumers of the bus have heard that the group takes nothing of a stream.
func pausedAll(b *Bus, stream string) bool {
	for _, c := range b.consuming() {
		if !c.IsPaused(stream) {
			return false
		}
	}
	return true
}

// pausedBy is a pause of which a consumer makes the probes.
func pausedBy(consumer string) Pause {
	return Pause{By: PausedByBreaker, Reason: "database is away", Consumer: consumer, Since: time.Now()}
}
