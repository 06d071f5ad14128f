package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/rishi-platform/millrace/internal/loadgen"
	"github.com/rishi-platform/millrace/internal/redistest"
)

// runBench runs the verb without the root command, which changes what belongs to the whole process (the log).
func runBench(ctx context.Context, args ...string) (string, error) {
	var out bytes.Buffer
	cmd := newBenchCommand(&options{})
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	err := cmd.ExecuteContext(ctx)
	return out.String(), err
}

// wantNothingLeft wants the server to be as it was before.
func wantNothingLeft(t *testing.T, server *redistest.Server) {
	t.Helper()
	left, err := server.Client(t).Keys(context.Background(), "*").Result()
	if err != nil || len(left) > 0 {
		t.Errorf("left in redis: %q, %v; want nothing", left, err)
	}
}

func TestBenchHandlesAllAndLeavesNothing(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	out, err := runBench(t.Context(), "--redis", server.URL(), "--namespace", strings.Repeat("n", 64), "--events", "3000", "--batch", "7", "--subjects", "5", "--json")
	if err != nil {
		t.Fatal(err)
	}
	var got benchJSON
	if err := json.Unmarshal([]byte(out), &got); err != nil || strings.Count(out, "\n") != 1 {
		t.Fatalf("%v, want one line of JSON: %s", err, out)
	}
	if got.Events != 3000 || got.Published != 3000 || got.Interrupted || got.EventsPerSecond <= 0 || got.PublishedPerSecond < got.EventsPerSecond {
		t.Errorf("got %+v, want all 3000 events, published no slower than handled", got)
	}
	for name, v := range map[string]*float64{
		"p50Ms": got.P50MS, "p99Ms": got.P99MS, "roundTripMs": got.RoundTripMS, "latencyRate": got.LatencyRate,
		"serverCpuUsPerEvent": got.ServerCPUUsPerEvent, "clientCpuUsPerEvent": got.ClientCPUUsPerEvent,
	} {
		if v == nil || *v <= 0 {
			t.Errorf("%s is not known: %s", name, out)
		}
	}
	if got.LimitedBy == nil {
		t.Errorf("what limits is not known: %s", out)
	}
	wantNothingLeft(t, server)
}

// A stream that is cut must not cost events: whoever published them waits for those who handle them.
func TestBenchNeverCutsWhatWasNotHandled(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	out, err := runBench(t.Context(), "--redis", server.URL(), "--events", "120", "--payload", "1048576", "--publishers", "4", "--in-flight", "1")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "120 events in ") {
		t.Errorf("want all 120 events: %s", out)
	}
	wantNothingLeft(t, server)
}

func TestBenchEndsEarlyWithWhatItHas(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	client := server.Client(t)
	go func() { // the stream is there once events come
		for ctx.Err() == nil {
			if n, _ := client.DBSize(ctx).Result(); n > 2 {
				stop()
			}
		}
	}()
	out, err := runBench(ctx, "--redis", server.URL(), "--for", "1h")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "ended early") || !strings.Contains(out, "limited by") {
		t.Errorf("got no result: %s", out)
	}
	wantNothingLeft(t, server)
}

func TestBenchOfAServerThatGoesAway(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := server.Client(t)
	go func() {
		for t.Context().Err() == nil {
			if n, _ := client.DBSize(t.Context()).Result(); n > 2 {
				server.Kill(t)
				return
			}
		}
	}()
	out, err := runBench(t.Context(), "--redis", server.URL(), "--for", "1h")
	if err == nil || !strings.Contains(err.Error(), "redis-cli --scan --pattern '*bench-") || out != "" {
		t.Errorf("got %v and %q, want an error that says what is left behind, and no result", err, out)
	}
}

func TestBenchUsage(t *testing.T) {
	t.Parallel()
	for _, args := range []string{
		"--events 0", "--events 5 --for 1s", "--for 0s", "--for -1s", "--publishers 0", "--batch 0", "--batch 1000000000", "--in-flight 0", "--payload 37",
		"--payload 1048577", "--subjects -1", "--rate -1", "--rate NaN", "--namespace a/b",
	} {
		_, err := runBench(t.Context(), append(strings.Fields(args), "--redis", "redis://no-such-host.invalid")...)
		if !errors.As(err, new(*usageError)) {
			t.Errorf("%s: got %v, want a usage error", args, err)
		}
	}
}

func TestWhatLimits(t *testing.T) {
	t.Parallel()
	const second = time.Second
	idle := cpuTimes{machine: 100, machineIdle: 50, client: second / 10, server: second / 10, serverMain: second / 10}
	for name, test := range map[string]struct {
		change func(*benchResult)
		want   string
	}{
		"nothing is busy":               {func(*benchResult) {}, byRoundTrips},
		"nothing was handled":           {func(r *benchResult) { r.handled = 0 }, ""},
		"the rate is kept":              {func(r *benchResult) { r.verb.load.Rate = 1000; r.cpu.serverMain = second }, byRate},
		"the rate is not kept":          {func(r *benchResult) { r.verb.load.Rate = 2000; r.cpu.serverMain = second }, byServer},
		"the main thread is busy":       {func(r *benchResult) { r.cpu.serverMain = 85 * second / 100 }, byServer},
		"other threads are busy":        {func(r *benchResult) { r.cpu.server = 4 * second }, byRoundTrips},
		"this process is busy":          {func(r *benchResult) { r.cpu.client = 1000 * second }, byClient},
		"both are":                      {func(r *benchResult) { r.cpu.client, r.cpu.serverMain = 1000*second, second }, byServer},
		"others keep this machine busy": {func(r *benchResult) { r.cpu.machineIdle = 10 }, byClient},
		"so, and Redis most of it": {func(r *benchResult) {
			r.cpu.machineIdle, r.cpu.server, r.verb.local = 10, second/2, true
		}, byServer},
		"so, and Redis is elsewhere":     {func(r *benchResult) { r.cpu.machineIdle, r.cpu.server = 10, second/2 }, byClient},
		"the server says nothing":        {func(r *benchResult) { r.cpu.server, r.cpu.serverMain = -1, -1 }, ""},
		"the machine says nothing":       {func(r *benchResult) { r.cpu.machine = 0 }, byRoundTrips},
		"nobody says anything":           {func(r *benchResult) { r.cpu = cpuTimes{client: -1, server: -1, serverMain: -1} }, ""},
		"so, and all of it is busy here": {func(r *benchResult) { r.cpu.machine, r.cpu.server, r.verb.local = 0, 1000*second, true }, byServer},
	} {
		r := &benchResult{verb: &benchVerb{load: loadgen.Config{}}, published: 1000, handled: 1000, publishing: second, elapsed: second, cpu: idle}
		test.change(r)
		if by, text := r.limit(); by != test.want || text == "" {
			t.Errorf("%s: got %q (%s), want %q", name, by, text, test.want)
		}
	}
}

func TestCPUOfAServerThatBeganAnewIsNotKnown(t *testing.T) {
	t.Parallel()
	before := cpuTimes{client: 1, server: 10, serverMain: 10}
	if got := (cpuTimes{client: 3, server: 15, serverMain: 14}).since(before); got != (cpuTimes{client: 2, server: 5, serverMain: 4}) {
		t.Errorf("got %+v, want the differences", got)
	}
	if got := (cpuTimes{client: 3, server: 2, serverMain: 1}).since(before); got.server >= 0 || got.serverMain >= 0 || got.client != 2 {
		t.Errorf("got %+v, want the server's unknown", got)
	}
	if got := (cpuTimes{client: -1, server: -1, serverMain: -1}).since(before); got.server >= 0 || got.client >= 0 {
		t.Errorf("got %+v, want nothing known", got)
	}
}

func TestResultOfNothingIsJSON(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	r := &benchResult{verb: &benchVerb{}, early: true, cpu: cpuTimes{client: 5, server: -1, serverMain: -1}}
	if err := errors.Join(r.writeJSON(&out), r.write(&out)); err != nil || !strings.Contains(out.String(), `"limitedBy":null`) {
		t.Errorf("got %v: %s", err, out.String())
	}
}
