package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// row is what came of one case; its JSON is a line of --json.
type row struct {
	Case           string  `json:"case"`
	System         string  `json:"system"`
	Kind           string  `json:"kind"`
	RTT            float64 `json:"rtt_ms"`
	PerSecond      measure `json:"msgs_per_s"`
	RatioLimit     measure `json:"ratio_limit"`
	RatioWatermill measure `json:"ratio_watermill_redisstream"`
	PerSecondMin   measure `json:"msgs_per_s_min"`
	PerSecondMax   measure `json:"msgs_per_s_max"`
	P50            measure `json:"p50_ms"`
	P99            measure `json:"p99_ms"`
	ServerCPU      measure `json:"server_cpu_us_per_event"`
	ClientCPU      measure `json:"client_cpu_us_per_event"`
	Allocs         measure `json:"allocs_per_event"`
	EntryBytes     measure `json:"bytes_per_entry"`
	RSS            measure `json:"rss_mib"`
	Rounds         int     `json:"rounds"` // that did not fail
	Payload        int     `json:"payload_bytes"`
	Publishers     int     `json:"publishers"`
	Batch          int     `json:"batch"`
	GOGC           int     `json:"gogc"`
}

// measure is a number, NaN where it does not apply or was not measured.
type measure float64

// MarshalJSON writes NaN as null, which JSON has instead.
func (m measure) MarshalJSON() ([]byte, error) {
	if math.IsNaN(float64(m)) {
		return []byte("null"), nil
	}
	return json.Marshal(float64(m))
}

// text writes the measure for the table.
func (m measure) text(format func(float64) string) string {
	if math.IsNaN(float64(m)) {
		return ""
	}
	return format(float64(m))
}

// rows returns a row for each case, in their order; those for the plot have none, and idleRows those of the idle ones.
func rows(all []Case, r results) []row {
	rows := make([]row, 0, len(all))
	for _, c := range all {
		if c.plot || c.Kind == kindIdle {
			continue
		}
		of := func(key string) measure { return measure(median(r.values(c.Name, key))) }
		speeds := r.values(c.Name, perSecond)
		w := row{
			Case: c.Name, System: c.System, Kind: c.Kind, RTT: c.RTT,
			PerSecond: of(perSecond), PerSecondMin: measure(math.NaN()), PerSecondMax: measure(math.NaN()),
			RatioLimit: measure(math.NaN()), RatioWatermill: measure(math.NaN()),
			P50: of(p50), P99: of(p99), ServerCPU: of(serverCPU), ClientCPU: of(clientCPU), Allocs: of(allocs),
			EntryBytes: of(entryBytes), RSS: of(rss),
			Rounds: len(speeds), Payload: c.Payload, Publishers: c.Publishers, Batch: c.Batch, GOGC: c.GOGC,
		}
		if len(speeds) > 0 {
			w.PerSecondMin, w.PerSecondMax = measure(slices.Min(speeds)), measure(slices.Max(speeds))
		}
		if c.Kind == kindLatency { // the speed is given
			rows = append(rows, w)
			continue
		}
		w.RatioLimit = measure(r.ratio(c.Name, limitOf(c, all), perSecond))
		if c.Kind == kindEndToEnd {
			w.RatioWatermill = measure(r.ratio(c.Name, fmt.Sprintf("%s/end-to-end/1-handler@%gms", systemWatermill, c.RTT), perSecond))
		}
		rows = append(rows, w)
	}
	return rows
}

// limitOf names the case of the raw limit that a case is compared with: of the same kind, round trip and payload.
func limitOf(c Case, all []Case) string {
	for _, l := range all {
		if l.System == systemLimit && l.Kind == c.Kind && l.RTT == c.RTT && l.Payload == c.Payload {
			return l.Name
		}
	}
	return ""
}

// printJSON prints one object a line.
func printJSON[R row | idleRow](w io.Writer, rows []R) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	for _, r := range rows {
		if err := encoder.Encode(r); err != nil {
			return err
		}
	}
	return nil
}

// printTable prints a table for people, kind by kind and by round trip; nothing where there are no rows.
func printTable(w *strings.Builder, rows []row) {
	if len(rows) == 0 {
		return
	}
	sorted := slices.Clone(rows)
	kinds := []string{kindEndToEnd, kindPublish, kindConsume, kindLatency, kindMemory}
	slices.SortStableFunc(sorted, func(a, b row) int {
		return cmp.Or(cmp.Compare(slices.Index(kinds, a.Kind), slices.Index(kinds, b.Kind)), cmp.Compare(a.RTT, b.RTT))
	})
	lines := [][]string{{"case", "events/s", "min", "max", "× limit", "× wm-rs", "p50 ms", "p99 ms", "server µs", "client µs", "allocs", "B/entry", "RSS MiB"}}
	for i, r := range sorted {
		if i > 0 && (sorted[i-1].Kind != r.Kind || sorted[i-1].RTT != r.RTT) {
			lines = append(lines, nil)
		}
		lines = append(lines, []string{
			r.Case, r.PerSecond.text(thousands), r.PerSecondMin.text(thousands), r.PerSecondMax.text(thousands),
			r.RatioLimit.text(digits(3)), r.RatioWatermill.text(threeDigits), r.P50.text(digits(2)), r.P99.text(digits(2)),
			r.ServerCPU.text(digits(2)), r.ClientCPU.text(digits(2)), r.Allocs.text(digits(1)), r.EntryBytes.text(digits(0)), r.RSS.text(digits(0)),
		})
	}
	writeTable(w, "lr", lines)
	w.WriteByte('\n')
}

func digits(n int) func(float64) string {
	return func(v float64) string { return fmt.Sprintf("%.*f", n, v) }
}

// threeDigits writes a ratio that may be anything from 0.1 to 1,000.
func threeDigits(v float64) string { return fmt.Sprintf("%.3g", v) }
