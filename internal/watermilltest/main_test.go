package watermilltest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"testing"
	"time"

	"github.com/rishi-platform/millrace/internal/redistest"
	"github.com/rishi-platform/millrace/pipeline"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	os.Exit(redistest.Run(m,
		// The suite's reconnect test ends without closing the channel that this one reads.
		goleak.IgnoreAnyFunction("github.com/ThreeDotsLabs/watermill/pubsub/tests.TestReconnect.func2"),
		// The suite's multiplied subscribers forward from channels that it does not close.
		goleak.IgnoreAnyFunction("github.com/ThreeDotsLabs/watermill/internal/subscriber.(*multiplier).Subscribe.func1"),
	))
}

func openBus(t testing.TB, cfg pipeline.Config) *pipeline.Bus {
	t.Helper()
	bus, err := pipeline.Open(context.Background(), cfg)
	if err != nil {
		t.Fatalf("open bus: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := bus.Close(ctx); err != nil {
			t.Errorf("close bus: %v", err)
		}
	})
	return bus
}

// groupOf is a group name that all subscribers of one test share.
func groupOf(t testing.TB) string {
	sum := sha256.Sum256([]byte(t.Name()))
	return "g-" + hex.EncodeToString(sum[:8])
}
