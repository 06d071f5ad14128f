package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// The systems that are measured.
const (
	systemLimit     = "limit" // hand-written RESP: what Redis can do at all
	systemMillrace  = "millrace"
	systemWatermill = "watermill-redisstream"
	systemAsynq     = "asynq"
	systemNATS      = "nats-jetstream"
	systemGoRedis   = "go-redis" // plain XADD, beside Millrace's publishing
)

// The kinds of cases.
const (
	kindPublish  = "publish"    // until everything is stored
	kindConsume  = "consume"    // a backlog, until everything is handled and acknowledged
	kindEndToEnd = "end-to-end" // publisher and consumer in one process, until everything is handled and acknowledged
	kindLatency  = "latency"    // the same at 1,000 events/s: from the call of publish to the handler
	kindMemory   = "memory"     // what an entry takes in Redis
	kindDrain    = "drain"      // what was spooled in an outage, until Redis has it
	kindIdle     = "idle"       // a fleet that has nothing to do
)

const (
	latencyRate = 1000 // events/s
	// maxLen is what every Redis system trims its stream to, approximately. No case publishes as many, so nothing is trimmed unread.
	maxLen = 1_000_000
)

// Case is one thing that is measured of one system. It travels to the child process as JSON.
type Case struct {
	Name       string  `json:"name"` // of a plan: without system and round trip, and beginning with the kind
	System     string  `json:"system"`
	Kind       string  `json:"kind"`
	RTT        float64 `json:"rtt_ms"` // milliseconds, 0: loopback
	Payload    int     `json:"payload_bytes"`
	Publishers int     `json:"publishers"`
	Batch      int     `json:"batch"` // events per call, or per pipeline
	Handlers   int     `json:"handlers"`
	Subjects   int     `json:"subjects"` // different ones; 0: events have none
	GOGC       int     `json:"gogc"`
	Events     int     `json:"events"`

	// Of the idle and drain cases; zero in all others.
	Streams int    `json:"streams"`
	Fsync   string `json:"fsync"` // of the server: appendfsync; drain only

	// Of the idle cases; zero in all others, but for the outage of drain/return.
	Instances int           `json:"instances"`
	Groups    int           `json:"groups"`
	Settle    time.Duration `json:"settle_ns"`
	Window    time.Duration `json:"window_ns"`

	once bool // measured in the first round only, since it does not vary
	plot bool // measured for the plot only
}

// quickShare is how much of its events a case has with --quick.
const quickShare = 12

// seconds is about how long a case takes on the machine that docs/performance.md tells of.
const seconds = 3

// plan is a case at some round-trip times, and about how many events it does in a second on loopback and at 1 ms.
type plan struct {
	rtts      []float64
	near, far int
	Case
}

var (
	loopback = []float64{0}
	both     = []float64{0, 1}
	// plotted are the times that the plot shows. Without a plot these cases have the two of all others.
	plotted = []float64{0, 0.3, 1, 2}
)

// plans are in an order in which those that are compared with each other come close to each other.
var plans = []plan{
	{plotted, 160_000, 160_000, Case{System: systemLimit, Name: "end-to-end/batch", Batch: 128}},
	{plotted, 100_000, 100_000, Case{System: systemMillrace, Name: "end-to-end/batch", Publishers: 4, Batch: 128}},
	{loopback, 100_000, 0, Case{System: systemMillrace, Name: "end-to-end/batch-gogc400", Publishers: 4, Batch: 128, GOGC: 400}},
	{both, 80_000, 80_000, Case{System: systemMillrace, Name: "end-to-end/64-callers", Publishers: 64}},
	{plotted, 7_000, 700, Case{System: systemWatermill, Name: "end-to-end/1-handler", Handlers: 1}},
	{plotted, 13_000, 5_000, Case{System: systemWatermill, Name: "end-to-end/16-handlers", Publishers: 16, Handlers: 16}},
	{plotted, 7_000, 700, Case{System: systemAsynq, Name: "end-to-end", Publishers: 16, Handlers: 64}},
	{plotted, 60_000, 40_000, Case{System: systemNATS, Name: "end-to-end"}},

	{both, 100_000, 100_000, Case{System: systemLimit, Name: "end-to-end/batch-1KiB", Batch: 128, Payload: 1024}},
	{both, 60_000, 60_000, Case{System: systemMillrace, Name: "end-to-end/batch-1KiB", Publishers: 4, Batch: 128, Payload: 1024}},
	{loopback, 60_000, 0, Case{System: systemMillrace, Name: "end-to-end/64-callers-1KiB", Publishers: 64, Payload: 1024}},
	{loopback, 80_000, 0, Case{System: systemMillrace, Name: "end-to-end/batch-1-caller", Batch: 128}},
	{loopback, 100_000, 0, Case{System: systemMillrace, Name: "end-to-end/batch-subjects", Publishers: 4, Batch: 128, Subjects: 1000}},
	{both, 40_000, 10_000, Case{System: systemMillrace, Name: "end-to-end/16-callers", Publishers: 16}},
	{both, 6_000, 800, Case{System: systemMillrace, Name: "end-to-end/1-caller"}},

	{both, 300_000, 300_000, Case{System: systemLimit, Name: "publish/batch", Batch: 128}},
	{both, 150_000, 150_000, Case{System: systemMillrace, Name: "publish/batch", Publishers: 4, Batch: 128}},
	{both, 40_000, 30_000, Case{System: systemGoRedis, Name: "publish/64-callers", Publishers: 64}},
	{both, 80_000, 80_000, Case{System: systemMillrace, Name: "publish/64-callers", Publishers: 64}},

	{both, 80_000, 80_000, Case{System: systemMillrace, Name: "publish/64-callers-100-streams", Publishers: 64, Streams: 100}},

	{both, 250_000, 250_000, Case{System: systemLimit, Name: "consume"}},
	{both, 120_000, 120_000, Case{System: systemMillrace, Name: "consume"}},

	{loopback, 10_000, 0, Case{System: systemMillrace, Name: "drain/1-stream", Publishers: 4, Batch: 128, Streams: 1, Fsync: "everysec"}},
	{loopback, 10_000, 0, Case{System: systemMillrace, Name: "drain/20-streams", Publishers: 4, Batch: 128, Streams: 20, Fsync: "everysec"}},
	{loopback, 1, 0, Case{System: systemMillrace, Name: "drain/return", Publishers: 64, Streams: 10, Subjects: 20, Fsync: "everysec", Window: 30 * time.Second}},
	{loopback, 10_000, 0, Case{System: systemMillrace, Name: "drain/1-stream-always", Publishers: 4, Batch: 128, Streams: 1, Fsync: "always"}},
	{loopback, 10_000, 0, Case{System: systemMillrace, Name: "drain/20-streams-always", Publishers: 4, Batch: 128, Streams: 20, Fsync: "always"}},

	{both, latencyRate, latencyRate, Case{System: systemLimit, Name: "latency"}},
	{both, latencyRate, latencyRate, Case{System: systemMillrace, Name: "latency", Publishers: 64}},
	{loopback, latencyRate, 0, Case{System: systemWatermill, Name: "latency/1-handler", Publishers: 64, Handlers: 1}},
	// One handler falls behind without end at this distance.
	{[]float64{1}, 0, latencyRate, Case{System: systemWatermill, Name: "latency/16-handlers", Publishers: 64, Handlers: 16}},

	{loopback, 0, 0, Case{System: systemLimit, Name: "memory", Batch: 128, Events: maxLen, once: true}},
	{loopback, 0, 0, Case{System: systemMillrace, Name: "memory", Publishers: 4, Batch: 128, Events: maxLen, once: true}},
	{loopback, 0, 0, Case{System: systemWatermill, Name: "memory", Publishers: 64, Events: maxLen, once: true}},
}

// cases returns everything that is measured, loopback first.
func cases(quick, plot bool) []Case {
	var all []Case
	for _, rtt := range plotted {
		standard := slices.Contains(both, rtt)
		if !standard && !plot {
			continue
		}
		for _, p := range plans {
			if slices.Contains(p.rtts, rtt) {
				c := p.at(rtt)
				c.plot = !standard
				if quick {
					c.Events = max(c.Events/quickShare, 200)
					c.Window /= quickShare
				}
				all = append(all, c)
			}
		}
	}
	return all
}

// at returns the case of the plan at one round-trip time.
func (p plan) at(rtt float64) Case {
	c := p.Case
	c.RTT = rtt
	c.Kind, _, _ = strings.Cut(c.Name, "/")
	c.Name = fmt.Sprintf("%s/%s@%gms", c.System, c.Name, rtt)
	setDefault(&c.Payload, 256)
	setDefault(&c.GOGC, 100)
	setDefault(&c.Publishers, 1)
	setDefault(&c.Batch, 1)
	if rtt > 0 {
		setDefault(&c.Events, seconds*p.far)
	} else {
		setDefault(&c.Events, seconds*p.near)
	}
	return c
}

// chosen returns the cases whose name matches.
func chosen(all []Case, only *regexp.Regexp) []Case {
	return slices.DeleteFunc(all, func(c Case) bool { return !only.MatchString(c.Name) })
}

func setDefault[T comparable](field *T, value T) {
	if *field == *new(T) {
		*field = value
	}
}
