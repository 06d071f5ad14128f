package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// measured is what two rounds of some cases came to.
func measured(t *testing.T) ([]Case, results) {
	t.Helper()
	r := results{
		caseLimit:                       {{perSecond: 200_000, serverCPU: 4}, {perSecond: 100_000, serverCPU: 5}},
		caseOurs:                        {{perSecond: 100_000, serverCPU: 5, allocs: 30, rss: 30}, {perSecond: 52_000, serverCPU: 6, allocs: 31, rss: 31}},
		caseWatermill + "0ms":           {{perSecond: 10_000}, {perSecond: 4_000}},
		systemLimit + "/latency@1ms":    {{perSecond: 1000, p50: 1, p99: 2}, nil},
		systemMillrace + "/latency@1ms": {{perSecond: 1000, p50: 1.5, p99: 3}, {perSecond: 1000, p50: 1.5, p99: 3}},
	}
	all := slices.DeleteFunc(cases(false, false), func(c Case) bool { return r[c.Name] == nil })
	if len(all) != len(r) {
		t.Fatalf("%d of the %d cases of this test exist", len(all), len(r))
	}
	return all, r
}

func TestRows(t *testing.T) {
	t.Parallel()
	all, r := measured(t)
	byName := map[string]row{}
	for _, w := range rows(all, r) {
		byName[w.Case] = w
	}
	w := byName[caseOurs]
	got := []float64{float64(w.PerSecond), float64(w.PerSecondMin), float64(w.PerSecondMax), float64(w.RatioLimit), float64(w.RatioWatermill), float64(w.Rounds)}
	if want := []float64{76_000, 52_000, 100_000, 0.51, 11.5, 2}; !cmp.Equal(want, got) {
		t.Errorf("got median, min, max, × limit, × watermill, rounds %v, want %v", got, want)
	}
	latency := byName[systemLimit+"/latency@1ms"]
	if latency.P50 != 1 || latency.Rounds != 1 || !math.IsNaN(float64(latency.RatioLimit)) {
		t.Errorf("got %+v, want a p50 of 1 ms of one round and no ratio", latency)
	}
}

func TestJSONHasExactlyTheseFields(t *testing.T) {
	t.Parallel()
	all, r := measured(t)
	var out bytes.Buffer
	if err := printJSON(&out, rows(all, r)); err != nil {
		t.Fatal(err)
	}
	want := strings.Fields("case system kind rtt_ms msgs_per_s ratio_limit ratio_watermill_redisstream msgs_per_s_min msgs_per_s_max p50_ms p99_ms " +
		"server_cpu_us_per_event client_cpu_us_per_event allocs_per_event bytes_per_entry rss_mib rounds payload_bytes publishers batch gogc")
	slices.Sort(want)
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != len(all) {
		t.Errorf("got %d lines, want one for each of %d cases", len(lines), len(all))
	}
	for _, line := range lines {
		var object map[string]any
		if err := json.Unmarshal([]byte(line), &object); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, slices.Sorted(maps.Keys(object))); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		if object["case"] == caseOurs && (object["p50_ms"] != nil || object["ratio_limit"] != 0.51 || object["gogc"] != 100.0) {
			t.Errorf("got %s, want null for the latency, the ratio and GOGC", line)
		}
	}
}

func TestTableHasALineForEachCase(t *testing.T) {
	t.Parallel()
	all, r := measured(t)
	var out strings.Builder
	printTable(&out, rows(all, r))
	for _, c := range all {
		if !strings.Contains(out.String(), c.Name) {
			t.Errorf("%s is missing in:\n%s", c.Name, &out)
		}
	}
	if first := strings.Index(out.String(), caseOurs); first > strings.Index(out.String(), "latency") {
		t.Errorf("latency stands before throughput in:\n%s", &out)
	}
}

func TestTablesHaveTheirColumns(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	writeTable(&out, "lr", [][]string{{"case", "× limit", "µs"}, nil, {"longer", "1", ""}})
	if want := "case    × limit  µs\n\nlonger        1\n"; out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &out, want)
	}
}

func TestTargetsSayWhatHolds(t *testing.T) {
	t.Parallel()
	all, r := measured(t)
	r[systemNATS+"/end-to-end@0ms"] = []sample{nil, nil} // it failed
	all = append(all, Case{Name: systemNATS + "/end-to-end@0ms"})
	var out strings.Builder
	printTargets(&out, all, r)
	for what, want := range map[string]string{
		"end to end, batch, against the raw limit":    "0.51 holds",
		"against watermill-redisstream, 1 handler":    "11.5 does not hold",
		"the same at 1 ms, against the raw client":    "1.5 does not hold",
		"server CPU per event, against the raw limit": "1.225 holds",
		"allocations per event, end to end, batch":    "30.5 holds",
		"against NATS JetStream":                      "not measured",
	} {
		found := false
		for line := range strings.Lines(out.String()) {
			words := strings.Join(strings.Fields(line), " ")
			found = found || strings.HasPrefix(words, what) && strings.HasSuffix(words, want)
		}
		if !found {
			t.Errorf("%q does not say %q in:\n%s", what, want, &out)
		}
	}
	if strings.Contains(out.String(), "asynq") {
		t.Errorf("a target is listed whose cases were not chosen:\n%s", &out)
	}
}

func TestEveryTargetAndCurveIsMeasured(t *testing.T) {
	t.Parallel()
	all := append(cases(true, true), idleCases(idleOptions{instances: []int{3, 30}}, true)...)
	names := map[string]bool{}
	for _, c := range all {
		if names[c.Name] {
			t.Errorf("%s is there twice", c.Name)
		}
		names[c.Name] = true
		if compared := c.Kind == kindEndToEnd || c.Kind == kindPublish || c.Kind == kindConsume; compared && limitOf(c, all) == "" {
			t.Errorf("%s has no limit that it is compared with", c.Name)
		}
	}
	for _, target := range targets {
		if !names[target.of] || target.to != "" && !names[target.to] {
			t.Errorf("%q names a case that does not exist: %s, %s", target.what, target.of, target.to)
		}
	}
	for _, curve := range curves {
		for _, rtt := range []string{"0ms", "0.3ms", "1ms", "2ms"} {
			if !names[curve.prefix+rtt] {
				t.Errorf("%s has no point at %s", curve.label, rtt)
			}
		}
	}
}

func TestPlotIsAnSVG(t *testing.T) {
	t.Parallel()
	all, r := measured(t)
	svg := plot(all, r)
	decoder := xml.NewDecoder(bytes.NewReader(svg))
	drawn := 0
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in:\n%s", err, svg)
		}
		if element, ok := token.(xml.StartElement); ok && element.Name.Local == "polyline" {
			drawn++
		}
	}
	if drawn != 3 {
		t.Errorf("got %d curves, want one for each of the 3 systems that were measured:\n%s", drawn, svg)
	}
	if y := plotY(plotHigh); y != plotTop {
		t.Errorf("the highest value stands at %v, want at the top, %d", y, plotTop)
	}
}
