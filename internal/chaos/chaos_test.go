package chaos

import (
	"context"
	"flag"
	"fmt"
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
	grace    = flag.Duration("chaos.grace", 600*time.Millisecond, "how long a result may take to reach Redis: beside other tests longer than the 50 ms of make chaos")
	losses   = flag.Bool("chaos.losses", false, "destroy groups as well")
)

// workerVariable is set in the environment of a worker process to the address of its Redis.
const workerVariable = "MILLRACE_CHAOS_REDIS"

// sickVariable is set in the environment of a worker process whose handlers all fail.
const sickVariable = "MILLRACE_CHAOS_SICK"

func TestMain(m *testing.M) {
	if addr := os.Getenv(workerVariable); addr != "" {
		os.Exit(workerMain(addr))
	}
	os.Exit(redistest.Run(m))
}

// workerReady is the line that a worker writes when SIGTERM makes it drain.
const workerReady = "ready"

// workerMain is a worker process. It drains at SIGTERM, and ends at once when the driver is gone.
func workerMain(addr string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	fmt.Println(workerReady)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(3)
	}()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("pid", os.Getpid())
	if err := Work(ctx, pipeline.Config{Redis: &redis.UniversalOptions{Addrs: []string{addr}}, Service: "chaos", Logger: log}, os.Stdout, log, os.Getenv(sickVariable) != ""); err != nil {
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
	t.Log(r.Waited)
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
	d.killAll()
}

// A worker stands still in the middle of its work and is overtaken. When it wakes it runs nothing that its peer has run: what had not begun does
// not begin, and the results of what had settle nothing.
func TestF20FrozenWorkerStealsNothingBack(t *testing.T) {
	t.Parallel()
	d := newDriver(t, 1)
	d.publishOrders(2000, Order{Wait: 600 * time.Millisecond}) // enough to see some of them running on a busy machine
	d.await("some runs", func() bool { return d.unfinished() > 50 })
	frozen := d.workers[0]
	d.startWorker() // the peer
	d.freeze(frozen, 13*time.Second)
	d.settle()
	r := Account(d.ledger())
	t.Log("\n" + d.table(r))
	if len(r.Findings) > 0 {
		t.Errorf("%d findings, the first: %v", len(r.Findings), r.Findings[0])
	}
	if r.Excused["frozen"] == 0 {
		t.Error("nothing was overtaken: this test shows nothing")
	}
}

// A process dies after it has handled an event, and before it acknowledges it: the event comes again, and handlers.Once keeps its effect from
// being repeated.
func TestF11DeathBeforeTheAckRepeatsNoEffect(t *testing.T) {
	t.Parallel()
	d := newDriver(t, 1)
	d.publishOne(DeadlyType, "paid", Order{Die: Unsent})
	deaths := d.supervise("the end of the event", func() bool {
		done, _ := d.settledGroup("deadly", Deadly)
		return done && d.runsOf(Deadly, "paid") > 0
	})
	if runs := d.runsOf(Deadly, "paid"); deaths != 1 || runs != 1 {
		t.Errorf("%d deaths, %d runs; want 1 and 1", deaths, runs)
	}
	d.killAll()
}

// An event kills each process that handles it. It is a dead letter when its crashes are too many, and what was beside it is handled and is not.
func TestF14EventThatKillsItsProcessIsGivenUp(t *testing.T) {
	t.Parallel()
	d := newDriver(t, 1)
	var good []string
	for i := range 20 {
		good = append(good, fmt.Sprint("good-", i))
		d.publishOne(DeadlyType, good[i], Order{Wait: 50 * time.Millisecond})
		if i == 10 {
			d.publishOne(DeadlyType, "bad", Order{Die: Always})
		}
	}
	deaths := d.supervise("the end of all events", func() bool {
		done, _ := d.settledGroup("deadly", Deadly)
		return done && d.runsOf(Deadly, "bad") > 0
	})
	if deaths != 3 { // CrashLimit is 2, and nobody knows of the first one who was running
		t.Errorf("%d processes died, want 3", deaths)
	}
	var dead []pipeline.DeadLetter
	for one, err := range d.bus.DeadLetters(t.Context(), pipeline.DeadQuery{Stream: "deadly", Group: Deadly}) {
		if err != nil {
			t.Fatal(err)
		}
		dead = append(dead, one)
	}
	if len(dead) != 1 || dead[0].Event.ID != "bad" || dead[0].Kind != pipeline.KindCrash {
		t.Errorf("dead letters %+v, want the one that kills", dead)
	}
	for _, id := range good {
		if d.runsOf(Deadly, id) == 0 {
			t.Errorf("%s was never handled", id)
		}
	}
	d.killAll()
}
