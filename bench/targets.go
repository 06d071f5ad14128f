package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// target is one promise of how fast Millrace is. Except for the last ones they are ratios of what was measured in the same round.
type target struct {
	what   string
	of     string // case
	to     string // case it is compared with; empty: the value itself is bounded
	key    string
	least  float64 // 0: there is none
	most   float64 // 0: there is none
	remark string
}

// The cases that the targets are about.
const (
	caseOurs        = systemMillrace + "/end-to-end/batch@0ms"
	caseOursFar     = systemMillrace + "/end-to-end/batch@1ms"
	caseOurs400     = systemMillrace + "/end-to-end/batch-gogc400@0ms"
	caseOurs64      = systemMillrace + "/end-to-end/64-callers@0ms"
	caseLimit       = systemLimit + "/end-to-end/batch@0ms"
	caseWatermill   = systemWatermill + "/end-to-end/1-handler@"
	caseWatermill16 = systemWatermill + "/end-to-end/16-handlers@"
	caseDrain       = systemMillrace + "/drain"
	caseIdle30      = systemMillrace + "/idle/30-instances@0ms"
)

// workerRSS is the bound on a worker's memory: InFlight (256) × (payload + 4 KiB) + 64 MiB, in MiB.
const workerRSS = 256*(256+4096)/float64(1<<20) + 64

var targets = []target{
	{what: "end to end, batch, against the raw limit", of: caseOurs, to: caseLimit, key: perSecond, least: 0.45},
	{what: "the same at GOGC=400", of: caseOurs400, to: caseLimit, key: perSecond, least: 0.55},
	{what: "against watermill-redisstream, 1 handler", of: caseOurs, to: caseWatermill + "0ms", key: perSecond, least: 13},
	{what: "against watermill-redisstream, 16 handlers", of: caseOurs, to: caseWatermill16 + "0ms", key: perSecond, least: 6.5},
	{what: "against NATS JetStream", of: caseOurs, to: systemNATS + "/end-to-end@0ms", key: perSecond, least: 1.3},
	{what: "against asynq", of: caseOurs, to: systemAsynq + "/end-to-end@0ms", key: perSecond, least: 8},
	{what: "end to end, 64 callers, against the raw limit", of: caseOurs64, to: caseLimit, key: perSecond, least: 0.30},
	{what: "1 ms, batch, against watermill-redisstream, 1 handler", of: caseOursFar, to: caseWatermill + "1ms", key: perSecond, least: 100},
	{what: "1 ms, batch, against watermill-redisstream, 16 handlers", of: caseOursFar, to: caseWatermill16 + "1ms", key: perSecond, least: 12},
	{what: "publish, 64 callers, against plain go-redis XADD", of: systemMillrace + "/publish/64-callers@0ms", to: systemGoRedis + "/publish/64-callers@0ms", key: perSecond, least: 1.8},
	{what: "the same at 1 ms", of: systemMillrace + "/publish/64-callers@1ms", to: systemGoRedis + "/publish/64-callers@1ms", key: perSecond, least: 2.5},
	{what: "publish at 1 ms, 100 streams against one", of: systemMillrace + "/publish/64-callers-100-streams@1ms", to: systemMillrace + "/publish/64-callers@1ms", key: perSecond, least: 0.7},
	{what: "drain of a spool, 20 streams against one", of: caseDrain + "/20-streams@0ms", to: caseDrain + "/1-stream@0ms", key: perSecond, least: 0.4},
	{what: "the same with appendfsync always", of: caseDrain + "/20-streams-always@0ms", to: caseDrain + "/1-stream-always@0ms", key: perSecond, least: 0.4},
	{what: "durable again after 30 s of outage, at half of the load that Redis can take, s", of: caseDrain + "/return@0ms", key: durable, most: 10},
	{what: "latency p50 at 1,000/s, against watermill-redisstream", of: systemMillrace + "/latency@0ms", to: systemWatermill + "/latency/1-handler@0ms", key: p50, most: 1.1},
	{what: "the same at 1 ms, against the raw client", of: systemMillrace + "/latency@1ms", to: systemLimit + "/latency@1ms", key: p50, most: 1.15},
	{what: "server CPU per event, against the raw limit", of: caseOurs, to: caseLimit, key: serverCPU, most: 1.25},
	{what: "bytes per entry, against watermill-redisstream", of: systemMillrace + "/memory@0ms", to: systemWatermill + "/memory@0ms", key: entryBytes, most: 0.92},
	{what: "allocations per event, end to end, batch", of: caseOurs, key: allocs, most: 35},
	{what: "CPU of the server, 30 idle instances, %", of: caseIdle30, key: serverLoad, most: 25},
	// A fleet that could not join costs little, too.
	{what: "consumers that have joined, 30 idle instances, %", of: caseIdle30, key: joinedShare, least: 100},
	{what: "peak RSS of a worker at full speed, MiB", of: systemMillrace + "/consume@0ms", key: rss, most: workerRSS,
		remark: "for as long as the case takes; the target is shown over 5 min by hand"},
}

// value returns what came of the target, NaN where it was not measured.
func (t target) value(r results) float64 {
	if t.to == "" {
		return median(r.values(t.of, t.key))
	}
	return r.ratio(t.of, t.to, t.key)
}

// verdict says whether a value holds.
func (t target) verdict(value float64) string {
	switch {
	case math.IsNaN(value):
		return "not measured"
	case t.least > 0 && value < t.least, t.most > 0 && value > t.most:
		return "does not hold"
	}
	return "holds"
}

func (t target) bound() string {
	if t.least > 0 {
		return fmt.Sprintf("≥ %.4g", t.least)
	}
	return fmt.Sprintf("≤ %.4g", t.most)
}

// printTargets prints a line for each target that the cases are for.
func printTargets(w *strings.Builder, all []Case, r results) {
	chosen := func(name string) bool {
		return name == "" || slices.ContainsFunc(all, func(c Case) bool { return c.Name == name })
	}
	lines := [][]string{{"target", "", "measured"}}
	for _, t := range targets {
		if !chosen(t.of) || !chosen(t.to) {
			continue
		}
		value := t.value(r)
		verdict := t.verdict(value)
		if t.remark != "" {
			verdict += " (" + t.remark + ")"
		}
		lines = append(lines, []string{t.what, t.bound(), measure(value).text(fourDigits), verdict})
	}
	if len(lines) > 1 {
		writeTable(w, "llrl", lines)
	}
}

// fourDigits is one more than the bounds have: what just misses a target must not look as if it met it.
func fourDigits(v float64) string { return fmt.Sprintf("%.4g", v) }
