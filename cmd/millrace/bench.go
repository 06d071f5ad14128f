package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/rishi-platform/millrace/internal/loadgen"
	"github.com/rishi-platform/millrace/pipeline"
	"github.com/spf13/cobra"
)

const (
	benchStream = "bench"
	benchPings  = 50
	// benchKeeps is about how much memory the stream may take in Redis: it is somebody's server.
	benchKeeps = 64 << 20
	// benchEntry is what an entry takes beside its payload, generously.
	benchEntry = 256
	// benchCalls bounds what is in calls of Publish at once, so that benchKeeps can hold.
	benchCalls = 64 << 20
	// benchStalled is how long nothing may be handled though there is something to handle.
	benchStalled = 15 * time.Second
	// Latency is measured by itself where there is no --rate: at full speed it would be the length of a queue.
	benchLatencyRate = 1000
	benchLatencyMost = 2 * time.Second
)

// benchVerb is one run of "millrace bench".
type benchVerb struct {
	*options
	load    loadgen.Config
	address string
	local   bool // Redis runs on this machine
	keeps   int  // entries that the stream keeps
	bus     *pipeline.Bus
	worker  *loadgen.Worker
}

func newBenchCommand(o *options) *cobra.Command {
	b := &benchVerb{options: o}
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure what your Redis and this machine can do",
		Long: `Publish events to your Redis as fast as it takes them, handle them here with a handler that does nothing, and say how many there were
a second, how long each took, and what limits them: round trips, the CPU of the server, or the CPU of this process.

It puts load on that Redis: on one that serves others, they notice. It writes to a stream in a namespace of its own, NAMESPACE-bench-RANDOM
or bench-RANDOM, so that no group or subscription of yours gets its events. The stream is cut at about 64 MiB (and at four times what is in
calls at once, where that is more), and removed at the end, also after Ctrl-C, which ends the run early and prints what came of it so far.

The numbers are those of this machine, that server and the way between them at this moment, and of no others.`,
		Example: `  millrace bench --redis redis://localhost
  millrace bench --for 30s --publishers 64 --payload 1024
  millrace bench --events 1000000 --publishers 4 --batch 128 --json
  millrace bench --rate 2000 --subjects 1000        latency at the load that you expect`,
		Args: cobra.NoArgs,
		RunE: b.run,
	}
	f := cmd.Flags()
	f.StringVar(&o.redis, "redis", "", "where Redis is: redis://[user:password@]host[:port][/database], rediss:// for TLS")
	f.StringVar(&o.namespace, "namespace", "", "what the run's own namespace begins with")
	o.addJSONFlag(f)
	f.IntVar(&b.load.Events, "events", 0, "publish that many events, however long it takes")
	durationVar(f, &b.load.For, "for", 10*time.Second, "publish for that long")
	f.IntVar(&b.load.Publishers, "publishers", 16, "calls of Publish at the same time")
	f.IntVar(&b.load.Batch, "batch", 1, "events per call of Publish")
	f.IntVar(&b.load.Payload, "payload", 256, "bytes of data per event")
	f.IntVar(&b.load.Policy.InFlight, "in-flight", 256, "events handled at the same time")
	f.IntVar(&b.load.Subjects, "subjects", 0, "different subjects; 0: events have none")
	f.Float64Var(&b.load.Rate, "rate", 0, "publish so many events a second; 0: as many as Redis takes")
	return cmd
}

func (b *benchVerb) run(cmd *cobra.Command, _ []string) error {
	if err := b.prepare(cmd); err != nil {
		return err
	}
	redis, given, err := b.redisAddress(cmd)
	if err != nil {
		return err
	}
	if !given {
		return errNoAddress(cmd.Name(), false)
	}
	r, err := b.bench(cmd.Context(), redis)
	if r == nil {
		return err
	}
	if b.json {
		return also(r.writeJSON(cmd.OutOrStdout()), err)
	}
	return also(r.write(cmd.OutOrStdout()), err)
}

// prepare checks the flags and fills in what follows from them.
func (b *benchVerb) prepare(cmd *cobra.Command) error {
	l := &b.load
	f := cmd.Flags()
	switch {
	case f.Changed("events") && f.Changed("for"):
		return usagef("--events and --for exclude each other")
	case f.Changed("events"):
		l.For = 0
		if l.Events < 1 {
			return usagef("--events %d: want 1 or more", l.Events)
		}
	case l.For <= 0:
		return usagef("--for %s: want more than 0", l.For)
	}
	switch {
	case l.Publishers < 1:
		return usagef("--publishers %d: want 1 or more", l.Publishers)
	case l.Batch < 1:
		return usagef("--batch %d: want 1 or more", l.Batch)
	case l.Policy.InFlight < 1:
		return usagef("--in-flight %d: want 1 or more", l.Policy.InFlight)
	case l.Payload < loadgen.MinPayload || l.Payload > 1<<20:
		return usagef("--payload %d: want %d to %d bytes", l.Payload, loadgen.MinPayload, 1<<20)
	case l.Subjects < 0:
		return usagef("--subjects %d: want 0 or more", l.Subjects)
	case l.Rate < 0 || math.IsNaN(l.Rate) || math.IsInf(l.Rate, 0):
		return usagef("--rate %g: want 0 or more", l.Rate)
	case l.Publishers > benchCalls/l.Batch/l.Payload:
		return usagef("--publishers × --batch × --payload: want at most 64 MiB at once")
	}
	if b.namespace != "" {
		if err := pipeline.CheckName(b.namespace); err != nil {
			return usagef("--namespace %w", err)
		}
		b.namespace += "-"
	}
	own := "bench-" + strings.ToLower(rand.Text()[:10])
	b.namespace = b.namespace[:min(len(b.namespace), 64-len(own))] + own

	b.keeps = max(benchKeeps/(l.Payload+benchEntry), 4*l.Publishers*l.Batch)
	l.Type, l.Group = benchStream+".event", benchStream
	l.Progress = &loadgen.Progress{}
	l.Logger = slog.New(slog.DiscardHandler) // the error says all
	return nil
}

// bench opens a bus, measures, and removes what it has written. There may be a result and an error.
func (b *benchVerb) bench(ctx context.Context, options *redis.UniversalOptions) (_ *benchResult, err error) {
	host, port := serverOf(options)
	b.address = fmt.Sprintf("%s:%d", host, port)
	b.local = onThisMachine(host)
	// What was begun is not abandoned by the first Ctrl-C, only by an outage: alive ends with that as its cause.
	alive, fail := context.WithCancelCause(context.WithoutCancel(ctx))
	defer fail(nil)
	cfg := b.config(options)
	cfg.RedisOnly = true
	cfg.Logger = b.load.Logger
	cfg.OutageAfter = oneShotTimeout - time.Second
	cfg.MaxLen, cfg.HardMaxLen = int64(b.keeps+1)/2, int64(b.keeps+1)/2 // an append cuts at twice the hard limit
	cfg.Hooks.State = func(_, to pipeline.State, cause error) {
		if to == pipeline.StateUnavailable {
			fail(fmt.Errorf("redis at %s is away: %w", b.address, cause))
		}
	}
	if b.bus, err = pipeline.Open(ctx, cfg); err != nil {
		return nil, err
	}
	defer closeBus(b.bus)
	// There is nothing to remove yet: a user that may not is told before there is.
	if err := b.remove(); err != nil {
		return nil, err
	}
	defer func() {
		left := b.remove()
		if left == nil {
			return
		}
		if err == nil {
			err = left // else the reason is that of the failure, most likely
		}
		err = also(err, fmt.Errorf("the stream is left behind; remove it with: redis-cli --scan --pattern '*%s:*' | xargs redis-cli unlink", b.namespace))
	}()

	// The worker looks for the moment in each payload, so that it finds those that publish has put there.
	stamped := b.load
	stamped.Rate = 1
	if b.worker, err = loadgen.Work(alive, b.bus, stamped); err != nil {
		return nil, err
	}
	defer func() { err = also(err, b.worker.Stop()) }()
	ended := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		b.watch(ended, fail)
	}()
	defer func() { close(ended); <-watched }()
	if err := b.ready(ctx, alive, fail); err != nil {
		return nil, err
	}
	return b.measure(ctx, alive)
}

// remove deletes what the run has written. A server that is known to be away is not waited for.
func (b *benchVerb) remove() error {
	if err := b.bus.Ready(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), oneShotTimeout)
	defer cancel()
	return b.bus.RemoveStream(ctx, benchStream)
}

// also joins errors in one line.
func also(first, second error) error {
	if first == nil || second == nil {
		return errors.Join(first, second)
	}
	return fmt.Errorf("%w; %w", first, second)
}

// watch shows how far the run is, and fails one that stands still.
func (b *benchVerb) watch(ended <-chan struct{}, fail context.CancelCauseFunc) {
	line := newProgress(os.Stderr, math.MaxInt)
	defer line.end()
	ticker := time.NewTicker(250 * time.Millisecond)
	defer ticker.Stop()
	var last int64
	begun, moved := time.Now(), time.Now()
	for {
		select {
		case <-ended:
			return
		case <-ticker.C:
		}
		published, handled := b.load.Progress.Published.Load(), b.load.Progress.Handled.Load()
		if handled != last || handled >= published {
			last, moved = handled, time.Now()
		}
		if time.Since(moved) > benchStalled {
			fail(fmt.Errorf("nothing was handled for %s, and %d events wait: was the stream removed, or evicted?", benchStalled, published-handled))
		}
		if line.out != nil {
			fmt.Fprintf(line.out, "\r\033[K%d published, %d handled, %.0f a second", published, handled, float64(handled)/time.Since(begun).Seconds())
		}
	}
}

// measure runs the load. The end of ctx ends it early, that of alive makes it fail.
func (b *benchVerb) measure(ctx, alive context.Context) (*benchResult, error) {
	r := &benchResult{verb: b, rtt: b.roundTrip(ctx)}
	progress := b.load.Progress

	before, begin := b.readCPU(alive), time.Now()
	if err := b.publish(ctx, alive, b.load); err != nil {
		return nil, err
	}
	r.publishing, r.published = time.Since(begin), int(progress.Published.Load())
	if err := b.await(ctx, alive, r.published); err != nil {
		return nil, err
	}
	r.elapsed, r.handled = time.Since(begin), min(int(progress.Handled.Load()), r.published)
	r.cpu = b.readCPU(alive).since(before)
	r.early = ctx.Err() != nil

	latencyRate := b.load.Rate
	if latencyRate == 0 && !r.early {
		var err error
		if latencyRate, err = b.latency(ctx, alive, r); err != nil {
			return nil, err
		}
	}
	if l := b.worker.Latencies(); l.Len() > 0 {
		r.latencyRate, r.p50, r.p99 = latencyRate, l.Quantile(0.5), l.Quantile(0.99)
	}
	return r, nil
}

// ready returns when one event, which does not count, has gone all the way: then the group is joined, connections are made and scripts
// are loaded. A worker that can't join ends by itself, and that is why nothing comes.
func (b *benchVerb) ready(ctx, alive context.Context, fail context.CancelCauseFunc) error {
	joining, joined := context.WithCancel(alive)
	defer joined()
	go func() {
		_ = b.worker.Settled(joining, math.MaxInt) // never so many: it returns when the worker has ended, or is waited for no longer
		if joining.Err() == nil {
			fail(errors.New("nothing can be handled")) // Stop says why
		}
	}()
	first := b.load
	first.Events, first.Publishers, first.Batch, first.Rate = 1, 1, 1, 0
	if err := b.publish(ctx, alive, first); err != nil {
		return err
	}
	if err := b.await(ctx, alive, int(b.load.Progress.Published.Load())); err != nil {
		return err
	}
	b.load.Progress.Published.Store(0)
	b.load.Progress.Handled.Store(0)
	return nil
}

// roundTrip is the median of some pings on a server that this process leaves alone; 0 if there was none.
func (b *benchVerb) roundTrip(ctx context.Context) time.Duration {
	var taken loadgen.Latencies
	for begin := time.Now(); taken.Len() < benchPings && time.Since(begin) < time.Second && ctx.Err() == nil; {
		if rtt, err := b.bus.Ping(ctx); err == nil {
			taken.Add(rtt)
		}
	}
	return taken.Quantile(0.5)
}

// publish puts load on the bus until all is published, its time is over or ctx has ended. It is loadgen.Publish, but for two things: it
// waits while the handlers are half of the stream behind, since what is cut from the stream before it was read would be missing for ever;
// and the end of ctx leaves no call without its outcome.
func (b *benchVerb) publish(ctx, alive context.Context, l loadgen.Config) error {
	bounded, cancel := context.WithCancel(alive)
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	if l.For > 0 {
		defer time.AfterFunc(l.For, cancel).Stop()
	}
	calls := make([][]pipeline.Event, l.Publishers)
	for i := range calls {
		for range l.Batch {
			calls[i] = append(calls[i], pipeline.Event{Type: l.Type, Data: loadgen.NewPayload(l.Payload)})
		}
	}
	subjects := make([]string, l.Subjects)
	for i := range subjects {
		subjects[i] = fmt.Sprintf("subject/%d", i)
	}
	err := loadgen.Spread(bounded, l.Publishers, l.Batch, l.Events, l.Rate, func(s loadgen.Share) error {
		for l.Progress.Published.Load()-l.Progress.Handled.Load() > int64(b.keeps/2) {
			if !pause(bounded, 5*time.Millisecond) {
				return nil
			}
		}
		events := calls[s.Worker][:s.Count] // may be used again: the bus copies what it keeps
		for i := range events {
			if len(subjects) > 0 {
				events[i].Subject = subjects[(s.First+i)%len(subjects)]
			}
			if l.Rate > 0 {
				loadgen.Stamp(events[i].Data)
			}
		}
		if _, err := b.bus.Publish(alive, events...); err != nil {
			return err
		}
		l.Progress.Published.Add(int64(s.Count))
		return nil
	})
	if cause := context.Cause(alive); cause != nil {
		return cause // it says more than the call that it ended
	}
	return err
}

// await returns when n events were handled, or ctx has ended.
func (b *benchVerb) await(ctx, alive context.Context, n int) error {
	for b.load.Progress.Handled.Load() < int64(n) && ctx.Err() == nil {
		if !pause(alive, time.Millisecond) {
			return context.Cause(alive)
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// latency publishes for a moment at a rate that leaves nothing waiting, which it returns: 1,000 a second, or a tenth of what was
// possible where that is less.
func (b *benchVerb) latency(ctx, alive context.Context, r *benchResult) (float64, error) {
	l := b.load
	l.Rate = min(benchLatencyRate, max(1, math.Floor(r.eventsPerSecond()/10)))
	l.Events, l.For = 0, min(max(r.elapsed/5, benchLatencyMost/4), benchLatencyMost)
	l.Publishers, l.Batch = 64, 1 // so many that none of them is late
	if err := b.publish(ctx, alive, l); err != nil {
		return 0, err
	}
	return l.Rate, b.await(ctx, alive, int(l.Progress.Published.Load()))
}

// cpuTimes is what was computed up to a moment, or between two; negative where nobody knows.
type cpuTimes struct {
	client, server, serverMain time.Duration
	machine, machineIdle       float64 // in a unit of its own: what all cores of this machine could have computed, and what of it they did not
}

func (b *benchVerb) readCPU(ctx context.Context) cpuTimes {
	now := cpuTimes{client: -1, server: -1, serverMain: -1}
	now.machine, now.machineIdle = machineCPU()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err == nil {
		now.client = time.Duration(used.Utime.Nano() + used.Stime.Nano())
	}
	if cpu, err := b.bus.ServerCPU(ctx, benchStream); err == nil {
		now.server, now.serverMain = cpu.Total, cpu.MainThread
	}
	return now
}

// since is what was computed after the earlier moment. A server that was started anew in between, or another one, knows nothing of it.
func (t cpuTimes) since(earlier cpuTimes) cpuTimes {
	between := cpuTimes{
		client: t.client - earlier.client, server: t.server - earlier.server, serverMain: t.serverMain - earlier.serverMain,
		machine: t.machine - earlier.machine, machineIdle: t.machineIdle - earlier.machineIdle,
	}
	if t.client < 0 || earlier.client < 0 {
		between.client = -1
	}
	if t.server < 0 || earlier.server < 0 || between.server < 0 || between.serverMain < 0 {
		between.server, between.serverMain = -1, -1
	}
	return between
}

// machineCPU reads how much all cores of this machine could have computed since it started, and how long they had nothing to do. Zero
// where the system is not Linux. What a hypervisor gave to others (steal) is not idle: it is missing here as well.
func machineCPU() (all, idle float64) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0
	}
	first, _, _ := strings.Cut(string(stat), "\n")
	for i, field := range strings.Fields(first) { // cpu user nice system idle iowait irq softirq steal guest guest_nice
		ticks, err := strconv.ParseFloat(field, 64)
		if err != nil || i > 8 { // guests are in user and nice already
			continue
		}
		all += ticks
		if i == 4 || i == 5 {
			idle += ticks
		}
	}
	return all, idle
}

// onThisMachine reports whether a server at that host computes on the same cores as this process.
func onThisMachine(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || strings.HasPrefix(host, "/") || ip != nil && ip.IsLoopback()
}
