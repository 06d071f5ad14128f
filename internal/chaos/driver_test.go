package chaos

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/redistest"
	"github.com/rishi-platform/millrace/pipeline"
)

// driver runs a Redis, a publisher and workers, breaks them, and notes everything.
type driver struct {
	t       *testing.T
	server  *redistest.Server
	client  redis.UniversalClient
	bus     *pipeline.Bus
	workers []*worker // those that run; used by the driver's goroutine only
	sick    *worker   // whose handlers all fail; nil: there is none
	readers sync.WaitGroup

	mu        sync.Mutex // guards what follows
	runs      map[runKey]*Run
	order     []*Run
	trouble   []Trouble
	outcomes  map[pipeline.Durability]int
	published map[string]bool
}

// runKey names a run: a process has one of an event and group at a time.
type runKey struct {
	process   int
	group, id string
}

func newDriver(t *testing.T, workers int) *driver {
	t.Helper()
	d := &driver{t: t, runs: map[runKey]*Run{}, outcomes: map[pipeline.Durability]int{}, published: map[string]bool{}}
	d.server = redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	d.client = d.server.Client(t)
	var err error
	d.bus, err = pipeline.Open(t.Context(), pipeline.Config{Redis: d.server.Options(), Service: "chaos", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		_ = d.bus.Close(ctx)
	})
	t.Cleanup(func() {
		for _, w := range d.workers {
			_ = w.cmd.Process.Kill()
		}
		if d.sick != nil {
			_ = d.sick.cmd.Process.Kill()
		}
		d.readers.Wait()
	})
	for range workers {
		d.startWorker()
	}
	return d
}

// worker is a worker process.
type worker struct {
	cmd   *exec.Cmd
	pid   int
	log   workerLog
	ready chan struct{} // closed when SIGTERM makes it drain
	ended chan struct{}
}

// workerLog keeps what a worker says: read it after the worker has ended.
type workerLog struct {
	said    bytes.Buffer
	running chan struct{} // closed when all groups are joined
}

func (l *workerLog) String() string { return l.said.String() }

func (l *workerLog) Write(p []byte) (int, error) {
	n, err := l.said.Write(p)
	select {
	case <-l.running:
	default:
		if bytes.Contains(l.said.Bytes(), []byte("router is running")) {
			close(l.running)
		}
	}
	return n, err
}

func (d *driver) startWorker() *worker {
	d.t.Helper()
	w := d.start()
	d.workers = append(d.workers, w)
	return w
}

// awaitJoined waits until the workers that live have joined their groups.
func (d *driver) awaitJoined() {
	all := slices.Clone(d.workers)
	if d.sick != nil {
		all = append(all, d.sick)
	}
	for _, w := range all {
		select {
		case <-w.log.running:
		case <-w.ended:
		}
	}
}

// cure stops the sick worker.
func (d *driver) cure() {
	if d.sick != nil {
		d.stop(d.sick)
		d.sick = nil
	}
}

// start starts a worker process with variables in its environment.
func (d *driver) start(variables ...string) *worker {
	d.t.Helper()
	w := &worker{ready: make(chan struct{}), ended: make(chan struct{}), log: workerLog{running: make(chan struct{})}}
	w.cmd = exec.Command(os.Args[0])
	w.cmd.Env = append(os.Environ(), workerVariable+"="+d.server.Addr())
	w.cmd.Env = append(w.cmd.Env, variables...)
	w.cmd.SysProcAttr = redistest.DieWithParent()
	w.cmd.Stderr = &w.log
	if _, err := w.cmd.StdinPipe(); err != nil { // closed with the driver: the worker ends then
		d.t.Fatal(err)
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	if err := w.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	w.pid = w.cmd.Process.Pid
	d.readers.Go(func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if lines.Text() == workerReady {
				close(w.ready)
				continue
			}
			var r Record
			if json.Unmarshal(lines.Bytes(), &r) == nil { // else the process was killed in the middle of a line
				d.note(w.pid, r)
			}
		}
		_ = w.cmd.Wait()
		close(w.ended)
	})
	return w
}

func (d *driver) note(pid int, r Record) {
	d.mu.Lock()
	defer d.mu.Unlock()
	k := runKey{pid, r.Group, r.ID}
	if r.Begin {
		d.runs[k] = &Run{Group: r.Group, ID: r.ID, Attempt: r.Attempt, Process: pid, Begin: r.At}
		d.order = append(d.order, d.runs[k])
		return
	}
	d.runs[k].End, d.runs[k].Failed = r.At, r.Error != ""
}

// runsOf is how often the handler of a group ran for an event.
func (d *driver) runsOf(group, id string) (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.order {
		if r.Group == group && r.ID == id {
			n++
		}
	}
	return n
}

// supervise starts a worker for each that has ended, until the fact holds, and returns how many ended.
func (d *driver) supervise(what string, fact func() bool) (ended int) {
	d.t.Helper()
	d.await(what, func() bool {
		for _, w := range slices.Clone(d.workers) {
			select {
			case <-w.ended:
				ended++
				d.drop(w)
				d.startWorker()
			default:
			}
		}
		return fact()
	})
	return ended
}

// unfinished is how many runs have no end.
func (d *driver) unfinished() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, r := range d.order {
		if r.End.IsZero() {
			n++
		}
	}
	return n
}

func (d *driver) await(what string, fact func() bool) {
	d.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !fact(); <-time.After(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			d.t.Fatalf("waited in vain for %s", what)
		}
	}
}

func (d *driver) mishap(what string, process int, do func()) {
	t := Trouble{What: what, Process: process, Begin: time.Now()}
	do()
	t.End = time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.trouble = append(d.trouble, t)
}

// publishing is a publisher at work.
type publishing struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func (p *publishing) stop() {
	p.cancel()
	p.wg.Wait()
}

const publishers = 8

// publish publishes so many events per second until it is stopped.
func (d *driver) publish(rate int) *publishing {
	ctx, cancel := context.WithCancel(context.Background())
	p := &publishing{cancel: cancel}
	for n := range publishers {
		p.wg.Go(func() {
			tick := time.NewTicker(publishers * time.Second / time.Duration(rate))
			defer tick.Stop()
			for i := 0; ; i++ {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				order := Order{Wait: rand.N(20 * time.Millisecond)}
				switch rand.IntN(200) {
				case 0:
					order.Wait = time.Second
				case 1:
					order.Permanent = true
				case 2, 3, 4:
					order.Fails = 1 + rand.IntN(2)
				}
				d.publishOne(EventType, fmt.Sprintf("%d-%d", n, i), order)
			}
		})
	}
	return p
}

func (d *driver) publishOrders(n int, order Order) {
	for i := range n {
		d.publishOne(EventType, fmt.Sprint(i), order)
	}
}

func (d *driver) publishOne(eventType, id string, order Order) {
	data, _ := json.Marshal(order)
	receipt, _ := d.bus.Publish(context.Background(), pipeline.Event{ID: id, Type: eventType, Subject: "s/" + id[:1], Data: data}) // the receipt says it
	d.mu.Lock()
	defer d.mu.Unlock()
	d.outcomes[receipt.Durability()]++
	if receipt.Durability() >= pipeline.Stored {
		d.published[id] = true
	}
}

// action is something that the driver may do.
type action struct {
	name   string
	weight int
	do     func(d *driver, random *rand.Rand)
}

var actions = []action{
	{"kill a worker", 6, func(d *driver, r *rand.Rand) { d.kill(d.pick(r)); d.startWorker() }},
	{"stop a worker", 3, func(d *driver, r *rand.Rand) { d.stop(d.pick(r)); d.startWorker() }},
	{"freeze a worker", 2, func(d *driver, r *rand.Rand) { d.freeze(d.pick(r), time.Second+upTo(r, 11*time.Second)) }},
	{"kill all connections", 3, func(d *driver, _ *rand.Rand) {
		d.mishap("redis connections killed", 0, func() { d.client.ClientKillByFilter(context.Background(), "TYPE", "normal") })
	}},
	{"kill redis", 2, func(d *driver, r *rand.Rand) {
		d.mishap("redis killed", 0, func() { d.server.Kill(d.t); <-time.After(upTo(r, 2*time.Second)); d.server.StartAgain(d.t) })
	}},
	{"kill a worker beside a backlog, and wait", 2, func(d *driver, r *rand.Rand) {
		for i := range 600 {
			d.publishOne(EventType, fmt.Sprintf("0-backlog-%d-%d", r.Int64(), i), Order{Wait: time.Second})
		}
		d.kill(d.pick(r))
		d.startWorker()
		<-time.After(soon) // in which nothing else is broken
	}},
	{"flush scripts", 2, func(d *driver, _ *rand.Rand) {
		d.mishap("scripts flushed", 0, func() { d.client.ScriptFlush(context.Background()) })
	}},
	{"out of memory", 2, func(d *driver, r *rand.Rand) {
		d.mishap("redis out of memory", 0, func() {
			d.client.ConfigSet(context.Background(), "maxmemory", "1")
			<-time.After(upTo(r, 3*time.Second))
			d.client.ConfigSet(context.Background(), "maxmemory", "0")
		})
	}},
	{"make redis a replica", 2, func(d *driver, r *rand.Rand) {
		d.mishap("redis a replica", 0, func() {
			d.client.Do(context.Background(), "REPLICAOF", "127.0.0.1", "1")
			<-time.After(upTo(r, 3*time.Second))
			d.client.Do(context.Background(), "REPLICAOF", "NO", "ONE")
		})
	}},
	{"take a right away", 2, func(d *driver, r *rand.Rand) {
		d.awaitJoined() // a worker that lacks a right when it starts says so and ends
		right := []string{"xack", "xreadgroup", "evalsha", "zadd"}[r.IntN(4)]
		d.mishap("redis right taken away: "+right, 0, func() {
			d.client.Do(context.Background(), "ACL", "SETUSER", "default", "-"+right)
			<-time.After(upTo(r, 3*time.Second))
			d.client.Do(context.Background(), "ACL", "SETUSER", "default", "+@all")
		})
	}},
	{"pause clients", 2, func(d *driver, r *rand.Rand) {
		pause, mode := time.Second+upTo(r, 4*time.Second), []string{"ALL", "WRITE"}[r.IntN(2)]
		d.mishap("redis pauses its clients", 0, func() {
			d.client.Do(context.Background(), "CLIENT", "PAUSE", pause.Milliseconds(), mode)
			<-time.After(pause)
		})
	}},
	{"pause a group", 2, func(d *driver, r *rand.Rand) {
		group := []string{Steady, Flaky}[r.IntN(2)]
		d.mishap("group paused", 0, func() {
			_, _ = d.bus.PauseGroup(context.Background(), "chaos", group, "chaos") // where Redis is away, nothing is paused
			<-time.After(upTo(r, 4*time.Second))
			d.await("the end of a pause", func() bool {
				_, err := d.bus.ResumeGroup(context.Background(), "chaos", group)
				return err == nil
			})
		})
	}},
	{"start a sick worker, or stop it", 2, func(d *driver, _ *rand.Rand) {
		if d.sick == nil {
			d.sick = d.start(sickVariable + "=1")
			return
		}
		d.cure()
	}},
	{"freeze redis", 2, func(d *driver, r *rand.Rand) {
		d.mishap("redis frozen", 0, func() { d.server.Freeze(d.t); <-time.After(time.Second + upTo(r, 7*time.Second)); d.server.Thaw(d.t) })
	}},
}

var lossActions = []action{
	{"destroy a group", 2, func(d *driver, r *rand.Rand) {
		d.mishap("group destroyed", 0, func() { d.client.XGroupDestroy(context.Background(), "chaos", []string{Steady, Flaky}[r.IntN(2)]) })
	}},
}

// breakThings does one thing after the other for so long.
func (d *driver) breakThings(duration time.Duration, seed uint64, losses bool) {
	random := rand.New(rand.NewPCG(seed, 0))
	possible := actions
	if losses {
		possible = append(slices.Clone(actions), lossActions...)
	}
	total := 0
	for _, a := range possible {
		total += a.weight
	}
	began := time.Now()
	for time.Since(began) < duration {
		<-time.After(upTo(random, 4*time.Second)) // what is broken needs time to be noticed, and what is whole time to work
		n := random.IntN(total)
		for _, a := range possible {
			if n -= a.weight; n < 0 {
				d.t.Logf("%7.3f s  %s", time.Since(began).Seconds(), a.name)
				a.do(d, random)
				break
			}
		}
	}
}

func upTo(r *rand.Rand, most time.Duration) time.Duration {
	return time.Duration(r.Int64N(int64(most)))
}

// pick takes a worker.
func (d *driver) pick(r *rand.Rand) *worker { return d.workers[r.IntN(len(d.workers))] }

func (d *driver) drop(w *worker) {
	d.workers = slices.DeleteFunc(d.workers, func(other *worker) bool { return other == w })
}

func (d *driver) kill(w *worker) {
	d.mishap("killed", w.pid, func() {
		_ = w.cmd.Process.Kill()
		<-w.ended
	})
	d.drop(w)
}

func (d *driver) killAll() {
	for _, w := range slices.Clone(d.workers) {
		d.kill(w)
	}
}

// stop lets a worker drain.
func (d *driver) stop(w *worker) {
	d.drop(w)
	select { // before that it would end without a drain
	case <-w.ready:
	case <-w.ended:
	}
	d.mishap("stopped", w.pid, func() {
		_ = w.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-w.ended:
		case <-time.After(30 * time.Second):
			d.t.Errorf("worker %d does not end:\n%s", w.pid, "see its log")
			_ = w.cmd.Process.Kill()
			<-w.ended
		}
	})
	if code := w.cmd.ProcessState.ExitCode(); code != 0 {
		d.t.Errorf("worker %d ended with code %d:\n%s", w.pid, code, w.log.String())
	}
}

func (d *driver) freeze(w *worker, duration time.Duration) {
	d.mishap("frozen", w.pid, func() {
		_ = w.cmd.Process.Signal(syscall.SIGSTOP)
		<-time.After(duration)
		_ = w.cmd.Process.Signal(syscall.SIGCONT)
	})
}

// settle waits until all is done, and stops the workers.
func (d *driver) settle() {
	d.t.Helper()
	d.cure()
	var last string
	for deadline := time.Now().Add(90 * time.Second); ; <-time.After(100 * time.Millisecond) {
		done, report := d.settled()
		if done {
			break
		}
		last = report
		if time.Now().After(deadline) {
			d.t.Errorf("the groups are not done: %s", last)
			break
		}
	}
	for len(d.workers) > 0 {
		d.stop(d.workers[0])
	}
	d.readers.Wait()
}

func (d *driver) settled() (done bool, report string) {
	for _, group := range []string{Steady, Flaky} {
		if done, report := d.settledGroup("chaos", group); !done {
			return false, report
		}
	}
	return true, ""
}

func (d *driver) settledGroup(stream, group string) (done bool, report string) {
	r, err := d.bus.Group(context.Background(), stream, group)
	if err != nil {
		return false, err.Error()
	}
	text, _ := json.Marshal(r)
	return r.Pending == 0 && r.Lane == 0 && r.Deferred == 0 && r.Lag != nil && *r.Lag == 0, string(text)
}

func (d *driver) ledger() Ledger {
	l := Ledger{Dead: map[string]map[string]bool{}, Grace: *grace}
	for _, group := range []string{Steady, Flaky} {
		l.Dead[group] = map[string]bool{}
		for dead, err := range d.bus.DeadLetters(context.Background(), pipeline.DeadQuery{Stream: "chaos", Group: group}) {
			if err != nil {
				d.t.Fatal(err)
			}
			l.Dead[group][dead.Event.ID] = true
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	l.Published, l.Trouble = d.published, d.trouble
	for _, r := range d.order {
		l.Runs = append(l.Runs, *r)
	}
	return l
}

func (d *driver) table(r Result) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(name string, value any) { fmt.Fprintf(w, "%s\t%v\n", name, value) }
	for _, durability := range slices.Sorted(maps.Keys(d.outcomes)) {
		row("published, "+durability.String(), d.outcomes[durability])
	}
	for _, group := range []string{Steady, Flaky} {
		row("handled by "+group, r.Handled[group])
		row("dead letters of "+group, r.Dead[group])
	}
	row("runs", len(d.order))
	for excuse, n := range r.Excused {
		row("repeated, excused: "+excuse, n)
	}
	mishaps := map[string]int{}
	for _, t := range d.trouble {
		mishaps[t.What]++
	}
	for _, what := range slices.Sorted(maps.Keys(mishaps)) {
		row(what, mishaps[what])
	}
	row("late: a killed one's work ran again after more than "+soon.String(), r.Late)
	row("longest until a killed one's work ran again", r.Longest.Round(time.Millisecond))
	row("findings", len(r.Findings))
	_ = w.Flush()
	return b.String()
}
