package redistest_test

import (
	"testing"

	"github.com/rishi-platform/millrace/internal/redistest"
)

func TestClusterMovesSlotsAndFailsOver(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, true)
	client := c.Client(t)
	key := c.StreamOn(t, 0, "key")
	if err := client.Set(t.Context(), key, "here", 0).Err(); err != nil {
		t.Fatal(err)
	}
	c.MoveSlot(t, key, c.Masters[1], nil)
	if got := client.Get(t.Context(), key).Val(); got != "here" {
		t.Errorf("after the move: %q", got)
	}
	c.Masters[0].Kill(t)
	c.AwaitFailover(t)
}

func TestSentinelsFailOver(t *testing.T) {
	t.Parallel()
	s := redistest.StartSentinels(t)
	s.Master.Kill(t)
	s.AwaitFailover(t)
}
