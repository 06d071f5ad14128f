package chaos

import (
	"context"
	"flag"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/redistest"
	"github.com/rishi-platform/millrace/pipeline"
)

var (
	duration = flag.Duration("chaos.duration", 20*time.Second, "how long things are broken")
	seed     = flag.Uint64("chaos.seed", 0, "of the choice of what is broken; 0: a new one")
	workers  = flag.Int("chaos.workers", 3, "worker processes")
	rate     = flag.Int("chaos.rate", 400, "events per second")
	losses   = flag.Bool("chaos.losses", false, "destroy groups as well")
)

// workerVariable is set in the environment of a worker process to the address of its Redis.
const workerVariable = "MILLRACE_CHAOS_REDIS"

func TestMain(m *testing.M) {
	if addr := os.Getenv(workerVariable); addr != "" {
		os.Exit(workerMain(addr))
	}
	os.Exit(redistest.Run(m))
}

// workerMain is a worker process. It drains at SIGTERM, and ends at once when the driver is gone.
func workerMain(addr string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(3)
	}()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("pid", os.Getpid())
	if err := Work(ctx, pipeline.Config{Redis: &redis.UniversalOptions{Addrs: []string{addr}}, Service: "chaos", Logger: log}, os.Stdout, log); err != nil {
		log.Error("worker ends", "err", err)
		return 1
	}
	return 0
}

// TestChaos breaks what there is for some seconds, and accounts for every event then.
func TestChaos(t *testing.T) {
	t.Parallel()
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano()) % 1_000_000
	}
	t.Logf("seed %d: repeat it with -chaos.seed %d", *seed, *seed)
	d := newDriver(t, *workers)
	publishing := d.publish(*rate)
	d.breakThings(*duration, *seed, *losses)
	publishing.stop()
	d.settle()
	r := Account(d.ledger())
	t.Log("\n" + d.table(r))
	for i, f := range r.Findings {
		if i == 10 {
			t.Errorf("and %d more", len(r.Findings)-i)
			break
		}
		t.Error(f)
	}
}

// A worker that is killed with a hundred deliveries in flight: a peer handles all of them again within 15 s.
func TestF07KilledWorkersDeliveriesAreSoonHandledByAPeer(t *testing.T) {
	t.Parallel()
	d := newDriver(t, 1)
	d.publishOrders(100, Order{Wait: time.Minute})
	d.await("a hundred handlers that run", func() bool { return d.unfinished() == 200 }) // in two groups
	victim := d.workers[0]
	d.startWorker() // the peer
	d.kill(victim)
	died := time.Now()
	d.await("the same in the peer", func() bool { return d.unfinished() == 400 })
	if took := time.Since(died); took > 15*time.Second {
		t.Errorf("it took %v", took)
	}
	for _, w := range d.workers {
		d.kill(w)
	}
}
