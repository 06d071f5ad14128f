package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"
)

// busy is the part of its cores from which on something counts as what limits the rest. The rules are in docs/operations.md.
const busy = 0.85

// rateKept is the part of --rate from which on the rate itself is what limits.
const rateKept = 0.95

// fellBehind is how much faster than handled events have to be published before handling is what takes the round trips.
const fellBehind = 1.1

// benchResult is what came of a run.
type benchResult struct {
	verb               *benchVerb
	early              bool // Ctrl-C
	published, handled int
	publishing         time.Duration // from the first call of Publish to the end of the last
	elapsed            time.Duration // from the first call of Publish until all was handled
	rtt                time.Duration // 0: not known
	cpu                cpuTimes      // within elapsed
	latencyRate        float64       // at which the latency was measured; 0: it was not
	p50, p99           time.Duration
}

func perSecond(n int, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(n) / d.Seconds()
}

func (r *benchResult) eventsPerSecond() float64 { return perSecond(r.handled, r.elapsed) }

// cores is how many cores were busy with that, on average; negative where nobody knows.
func (r *benchResult) cores(cpu time.Duration) float64 {
	if cpu < 0 || r.elapsed <= 0 {
		return -1
	}
	return cpu.Seconds() / r.elapsed.Seconds()
}

func (r *benchResult) perEvent(cpu time.Duration) float64 {
	if cpu < 0 || r.handled == 0 {
		return -1
	}
	return float64(cpu.Nanoseconds()) / 1000 / float64(r.handled)
}

// The values of limitedBy.
const (
	byServer     = "server"
	byClient     = "client"
	byRoundTrips = "round-trips"
	byRate       = "rate"
)

// limit says what keeps the events from being more, and how that shows. by is empty where nobody knows.
func (r *benchResult) limit() (by, text string) {
	own := float64(runtime.GOMAXPROCS(0))
	server, client := r.cores(r.cpu.serverMain), r.cores(r.cpu.client)
	rate := r.verb.load.Rate
	switch {
	case r.handled == 0:
		return "", "nobody knows: nothing was handled"
	case rate > 0 && r.eventsPerSecond() >= rateKept*rate:
		return byRate, fmt.Sprintf("--rate: all of its %g a second were handled", rate)
	case server >= busy:
		return byServer, fmt.Sprintf("the server: its CPU is %.0f %% busy", 100*min(server, 1))
	case client >= busy*own:
		return byClient, fmt.Sprintf("this process: it keeps %.1f of %.0f cores busy", client, own)
	case r.machineBusy() >= busy:
		return r.limitOfMachine(client)
	case server < 0:
		return "", "the server or round trips: the user may not ask for the server's CPU (INFO)"
	}
	way := "more --publishers or a larger --batch"
	if perSecond(r.published, r.publishing) > fellBehind*r.eventsPerSecond() {
		way = "more --in-flight"
	}
	return byRoundTrips, fmt.Sprintf("round trips: neither the server (%.0f %%) nor this process (%.1f of %.0f cores) is busy; %s may help", 100*server, client, own, way)
}

// machineBusy is the part of this machine's cores that is busy, whoever keeps them so. Where the system does not tell, it is what is
// known: this process, and Redis if it runs here.
func (r *benchResult) machineBusy() float64 {
	if r.cpu.machine > 0 {
		return 1 - r.cpu.machineIdle/r.cpu.machine
	}
	known := max(r.cores(r.cpu.client), 0)
	if r.verb.local {
		known += max(r.cores(r.cpu.server), 0)
	}
	return known / float64(runtime.NumCPU())
}

// limitOfMachine is for cores that are shared by this process, others, and often by Redis: none of them need have one of its own for all
// to be short of them.
func (r *benchResult) limitOfMachine(client float64) (by, text string) {
	by, text = byClient, fmt.Sprintf("this machine: its cores are %.0f %% busy, %.1f of %d with this process", 100*r.machineBusy(), client, runtime.NumCPU())
	if server := r.cores(r.cpu.server); r.verb.local && server >= 0 {
		text += fmt.Sprintf(", %.1f with Redis", server)
		if server > client {
			by = byServer
		}
	}
	return by, text
}

// benchJSON is what --json prints. What is not known is null.
type benchJSON struct {
	EventsPerSecond     float64  `json:"eventsPerSecond"`
	PublishedPerSecond  float64  `json:"publishedPerSecond"`
	P50MS               *float64 `json:"p50Ms"`
	P99MS               *float64 `json:"p99Ms"`
	LatencyRate         *float64 `json:"latencyRate"`
	RoundTripMS         *float64 `json:"roundTripMs"`
	ServerCPUUsPerEvent *float64 `json:"serverCpuUsPerEvent"`
	ClientCPUUsPerEvent *float64 `json:"clientCpuUsPerEvent"`
	ServerCores         *float64 `json:"serverCores"`
	ClientCores         *float64 `json:"clientCores"`
	Cores               int      `json:"cores"`
	LimitedBy           *string  `json:"limitedBy"`
	Events              int      `json:"events"`
	Published           int      `json:"published"`
	Interrupted         bool     `json:"interrupted"`
	DurationSeconds     float64  `json:"durationSeconds"`
	PayloadBytes        int      `json:"payloadBytes"`
	Publishers          int      `json:"publishers"`
	Batch               int      `json:"batch"`
	InFlight            int      `json:"inFlight"`
	Subjects            int      `json:"subjects"`
	Rate                float64  `json:"rate"`
}

func (r *benchResult) writeJSON(out io.Writer) error {
	known := func(v float64) *float64 {
		if v < 0 {
			return nil
		}
		v = rounded(v)
		return &v
	}
	l := r.verb.load
	j := benchJSON{
		EventsPerSecond: rounded(r.eventsPerSecond()), PublishedPerSecond: rounded(perSecond(r.published, r.publishing)),
		ServerCPUUsPerEvent: known(r.perEvent(r.cpu.server)), ClientCPUUsPerEvent: known(r.perEvent(r.cpu.client)),
		ServerCores: known(r.cores(r.cpu.serverMain)), ClientCores: known(r.cores(r.cpu.client)), Cores: runtime.GOMAXPROCS(0),
		Events: r.handled, Published: r.published, Interrupted: r.early, DurationSeconds: rounded(r.elapsed.Seconds()),
		PayloadBytes: l.Payload, Publishers: l.Publishers, Batch: l.Batch, InFlight: l.Policy.InFlight, Subjects: l.Subjects, Rate: l.Rate,
	}
	if r.rtt > 0 {
		j.RoundTripMS = known(milliseconds(r.rtt))
	}
	if r.latencyRate > 0 {
		j.P50MS, j.P99MS, j.LatencyRate = known(milliseconds(r.p50)), known(milliseconds(r.p99)), &r.latencyRate
	}
	if by, _ := r.limit(); by != "" {
		j.LimitedBy = &by
	}
	return json.NewEncoder(out).Encode(j)
}

// rounded keeps what is measured and drops what is noise.
func rounded(v float64) float64 { return math.Round(v*1000) / 1000 }

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

func (r *benchResult) write(out io.Writer) error {
	l := r.verb.load
	var text strings.Builder
	early := ""
	if r.early {
		early = fmt.Sprintf(", ended early with %d of %d handled", r.handled, r.published)
	}
	fmt.Fprintf(&text, "%d events in %.1f s on %s%s\n", r.handled, r.elapsed.Seconds(), r.verb.address, early)
	fmt.Fprintf(&text, "publishers %d, batch %d, payload %d bytes, in flight %d, subjects %d\n\n", l.Publishers, l.Batch, l.Payload, l.Policy.InFlight, l.Subjects)
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(w, name+"\t"+format+"\n", args...) }
	row("published", "%.0f events/s", perSecond(r.published, r.publishing))
	row("end to end", "%.0f events/s, published and handled", r.eventsPerSecond())
	if r.latencyRate > 0 {
		row("latency", "p50 %.2f ms, p99 %.2f ms, from publish to handler at %g events/s", milliseconds(r.p50), milliseconds(r.p99), r.latencyRate)
	}
	if r.rtt > 0 {
		row("round trip", "%.2f ms", milliseconds(r.rtt))
	}
	if r.handled > 0 && r.cpu.server >= 0 {
		row("server CPU", "%.1f µs an event, main thread %.0f %% busy", r.perEvent(r.cpu.server), 100*r.cores(r.cpu.serverMain))
	}
	if r.handled > 0 && r.cpu.client >= 0 {
		row("client CPU", "%.1f µs an event, %.1f of %d cores busy", r.perEvent(r.cpu.client), r.cores(r.cpu.client), runtime.GOMAXPROCS(0))
	}
	_ = w.Flush() // into memory: it never fails
	_, limit := r.limit()
	fmt.Fprintf(&text, "\nlimited by %s\n", limit)
	_, err := io.WriteString(out, text.String())
	return err
}
