package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
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

var (
	outageFor  = flag.Duration("outage.duration", 30*time.Second, "how long Redis is broken by TestOutage and TestOutageEverysec")
	outageRate = flag.Int("outage.rate", 500, "requests per second of the same")
)

// asMillrace is set in the environment of a process of this test binary that is to be millrace itself.
const asMillrace = "MILLRACE_TEST_IS_MILLRACE"

// program is a running millrace.
type program struct {
	cmd *exec.Cmd
	err bytes.Buffer // read it after it has ended

	mu   sync.Mutex // guards what follows
	seen map[string]int
}

// startMillrace runs the binary with arguments, and counts the IDs of the events that it prints.
func startMillrace(t *testing.T, args ...string) *program {
	t.Helper()
	p := &program{cmd: exec.Command(os.Args[0], args...), seen: map[string]int{}}
	p.cmd.Env = append(os.Environ(), asMillrace+"=1")
	p.cmd.SysProcAttr = redistest.DieWithParent()
	p.cmd.Stderr = &p.err
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var e struct{ ID string }
			if json.Unmarshal(lines.Bytes(), &e) == nil && e.ID != "" {
				p.mu.Lock()
				p.seen[e.ID]++
				p.mu.Unlock()
			}
		}
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		<-read
		if err := p.cmd.Wait(); err != nil {
			t.Errorf("millrace %s: %v\n%s", strings.Join(args, " "), err, p.err.String())
		}
	})
	return p
}

// answers are what the requests were answered with.
type answers struct {
	mu       sync.Mutex        // guards what follows
	accepted map[string]string // where each one stood, by its answer; empty where that did not say
	statuses map[string]int
	slowest  time.Duration
}

// publishUntil publishes at a rate to the servers in turn, until ctx ends.
func (a *answers) publishUntil(ctx context.Context, urls []string, rate int) {
	const callers = 16
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: callers}}
	defer client.CloseIdleConnections()
	var wg sync.WaitGroup
	for n := range callers {
		wg.Go(func() {
			tick := time.NewTicker(callers * time.Second / time.Duration(rate))
			defer tick.Stop()
			for i := 0; ; i++ {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				id := fmt.Sprintf("%d-%06d", n, i)
				body := fmt.Sprintf(`{"id":%q,"type":"%s.created","subject":"s/%d","payload":{"n":%d}}`, id, outageStreams[(n+i)%len(outageStreams)], n, i)
				begun := time.Now()
				status := "no answer"
				var answer struct{ Events []struct{ Position string } }
				if resp, err := client.Post(urls[(n+i)%len(urls)]+"/api/events/publish", "application/json", strings.NewReader(body)); err == nil {
					_ = json.NewDecoder(resp.Body).Decode(&answer) // a position is not in every answer
					_ = resp.Body.Close()
					status = strconv.Itoa(resp.StatusCode)
				}
				position := ""
				if len(answer.Events) == 1 {
					position = answer.Events[0].Position
				}
				a.mu.Lock()
				a.statuses[status]++
				a.slowest = max(a.slowest, time.Since(begun))
				if status == "201" || status == "202" {
					a.accepted[id] = position
				}
				a.mu.Unlock()
			}
		})
	}
	wg.Wait()
}

// outageStreams are those that are published to in turn.
var outageStreams = []string{"s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9"}

// TestOutage breaks Redis in every way while two servers take events of ten streams in turn, with IDs of their own, and two workers handle them. Every
// event that was answered 201 or 202 is in the history once and was handled once; none was refused, no answer took longer than 6 s, and 10 s after each
// return of Redis both servers are durable again, though events go on coming.
func TestOutage(t *testing.T) {
	t.Parallel()
	breakRedis(t, false)
}

// TestOutageEverysec does the same with a Redis that loses its last writes each time it dies: every event that it had confirmed and lost is named, and
// back in the history.
func TestOutageEverysec(t *testing.T) {
	t.Parallel()
	breakRedis(t, true)
}

func breakRedis(t *testing.T, losesWrites bool) {
	fsync := "always"
	if losesWrites {
		fsync = "everysec"
	}
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", fsync)
	proxy := redistest.NewProxy(t, server.Addr())
	dir := t.TempDir()
	var urls []string
	for range 2 {
		addr := redistest.FreeAddr(t)
		startMillrace(t, "serve", "--addr", addr, "--redis", proxy.URL(), "--data-dir", dir, "--log-level", "warn")
		urls = append(urls, "http://"+addr)
	}
	var workers []*program
	for range 2 {
		workers = append(workers, startMillrace(t, "work", "billing", "*.created", "--print", "--json", "--redis", server.URL(), "--concurrency", "32", "--log-level", "warn"))
	}
	for _, url := range urls {
		await(t, "the server at "+url, func() bool { return healthOf(url).State == pipeline.StateDurable })
	}

	a := &answers{accepted: map[string]string{}, statuses: map[string]int{}}
	ctx, stop := context.WithCancel(t.Context())
	published := make(chan struct{})
	go func() { defer close(published); a.publishUntil(ctx, urls, *outageRate) }()
	part := *outageFor / 60 // of the time that all of it takes
	pause := func(parts int) { <-time.After(time.Duration(parts) * part) }
	kill := func(parts int) {
		server.Kill(t)
		if losesWrites {
			t.Logf("%d bytes of the append-only file are lost", server.LoseTail(t, 100<<10))
		}
		pause(parts)
		server.StartAgain(t)
	}
	client := server.Client(t)
	for _, mishap := range []struct {
		name string
		do   func()
	}{
		{"restart", func() { kill(1) }},
		{"restart", func() { kill(2) }},
		{"long outage", func() { kill(12) }},
		{"frozen", func() { server.Freeze(t); pause(14); server.Thaw(t) }},
		{"replies lost", func() { proxy.DropReplies(true); pause(4); proxy.DropReplies(false); proxy.Reset() }},
		{"writes paused", func() { client.Do(t.Context(), "CLIENT", "PAUSE", (6 * part).Milliseconds(), "WRITE"); pause(6) }},
		{"restart", func() { kill(1) }},
	} {
		pause(2)
		mishap.do()
		t.Logf("%s: durable again after %v", mishap.name, durableAgain(t, urls))
	}
	pause(3)
	stop()
	<-published

	for _, url := range urls {
		await(t, "the drain of "+url, func() bool {
			h := healthOf(url)
			return h.State == pipeline.StateDurable && h.Spool != nil && h.Spool.Events == 0
		})
	}
	bus, err := pipeline.Open(t.Context(), pipeline.Config{Redis: &redis.UniversalOptions{Addrs: []string{server.Addr()}}, RedisOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close(context.Background())
	if losesWrites {
		a.awaitRestored(t, bus)
	}
	stored := map[string]int{}
	for r, err := range bus.History(t.Context(), pipeline.Query{Streams: outageStreams}) {
		if err != nil {
			t.Fatal(err)
		}
		stored[r.Event.ID]++
	}
	await(t, "the group", func() bool {
		return !slices.ContainsFunc(outageStreams, func(stream string) bool {
			g, err := bus.Group(t.Context(), stream, "billing")
			return err != nil || g.Pending > 0 || g.Lane > 0 || g.Deferred > 0 || g.Lag == nil || *g.Lag > 0
		})
	})
	handled := map[string]int{}
	awaitHandled := func() bool {
		clear(handled)
		for _, w := range workers {
			w.mu.Lock()
			for id, n := range w.seen {
				handled[id] += n
			}
			w.mu.Unlock()
		}
		return len(handled) >= len(stored)
	}
	await(t, "the output of the workers", awaitHandled)
	a.report(t, stored, handled, losesWrites)
}

// awaitRestored waits until every event that was accepted is in the history, and wants those that stand elsewhere than their answers said to be named
// as lost.
func (a *answers) awaitRestored(t *testing.T, bus *pipeline.Bus) {
	t.Helper()
	places := map[string]string{}
	await(t, "the events that redis had lost", func() bool {
		clear(places)
		for r, err := range bus.History(t.Context(), pipeline.Query{Streams: outageStreams}) {
			if err != nil {
				t.Fatal(err)
			}
			places[r.Event.ID] = string(r.Position)
		}
		for id := range a.accepted {
			if places[id] == "" {
				return false
			}
		}
		return true
	})
	lost := 0
	var unnamed []string
	await(t, "the events that name what was lost", func() bool {
		named := map[string]bool{}
		for r, err := range bus.History(t.Context(), pipeline.Query{Patterns: []string{"system.stream.rewound"}}) {
			if err != nil {
				t.Fatal(err)
			}
			var loss struct {
				AtLeast bool
				IDs     []string
			}
			if err := json.Unmarshal(r.Event.Data, &loss); err != nil || loss.AtLeast {
				t.Fatalf("%s: %v", r.Event.Data, err)
			}
			for _, id := range loss.IDs {
				named[id] = true
			}
		}
		lost, unnamed = 0, nil
		for id, at := range a.accepted {
			if at == "" || at == places[id] {
				continue
			}
			if lost++; !named[id] {
				unnamed = append(unnamed, id)
			}
		}
		return len(unnamed) == 0
	})
	t.Logf("%d events were lost after they had been answered 201, all of them are named and stored again", lost)
	if lost == 0 {
		t.Error("nothing was lost: this test shows nothing")
	}
}

// report holds what was accepted against what is stored and what was handled.
func (a *answers) report(t *testing.T, stored, handled map[string]int, losesWrites bool) {
	t.Helper()
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	for _, status := range slices.Sorted(maps.Keys(a.statuses)) {
		fmt.Fprintf(w, "answered %s\t%d\n", status, a.statuses[status])
	}
	count := func(name string, in map[string]int, mayRepeat bool) {
		missing, twice := 0, 0
		for id := range a.accepted {
			if in[id] == 0 {
				missing++
			}
		}
		for _, n := range in {
			if n > 1 {
				twice++
			}
		}
		fmt.Fprintf(w, "%s\t%d\nof the accepted not %s\t%d\n%s more than once\t%d\n", name, len(in), name, missing, name, twice)
		if missing > 0 || twice > 0 && !mayRepeat {
			t.Errorf("%d of the accepted events were not %s, %d were more than once", missing, name, twice)
		}
	}
	count("stored", stored, false)
	count("handled", handled, losesWrites) // what a group has done is lost with the rest
	fmt.Fprintf(w, "slowest answer\t%v\n", a.slowest.Round(time.Millisecond))
	_ = w.Flush()
	t.Log("\n" + table.String())
	if limit := patience(6 * time.Second); a.slowest > limit {
		t.Errorf("an answer took %v, want at most %v", a.slowest, limit)
	}
	for status, n := range a.statuses {
		if status != "201" && status != "202" {
			t.Errorf("%d requests were answered with %s", n, status)
		}
	}
	if a.statuses["202"] == 0 || a.statuses["201"] == 0 {
		t.Error("nothing was spooled, or nothing else: this test shows nothing")
	}
}

// durableAgain waits until the servers are durable, and returns how long that took.
func durableAgain(t *testing.T, urls []string) time.Duration {
	t.Helper()
	begun, limit := time.Now(), patience(10*time.Second)
	for _, url := range urls {
		await(t, url+" to be durable", func() bool { return healthOf(url).State == pipeline.StateDurable })
	}
	took := time.Since(begun)
	if took > limit {
		t.Errorf("it took %v until both were durable again, want at most %v", took, limit)
	}
	return took
}

// patience is a limit, or twice as much where the test runs beside others, on a machine that is busy with them.
func patience(limit time.Duration) time.Duration {
	if *outageFor < time.Minute {
		limit *= 2
	}
	return limit
}

func healthOf(url string) (h pipeline.Health) {
	client := http.Client{Timeout: 5 * time.Second}
	defer client.CloseIdleConnections()
	resp, err := client.Get(url + "/api/events/health")
	if err != nil {
		return h
	}
	defer resp.Body.Close()
	_ = json.NewDecoder(resp.Body).Decode(&h) // what can't be read has no state
	return h
}

func await(t *testing.T, what string, fact func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !fact(); <-time.After(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
