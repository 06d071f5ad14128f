package chaos

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// Each rule is broken once, and kept once.
func TestAccount(t *testing.T) {
	t.Parallel()
	begin := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	at := func(ms int) time.Time { return begin.Add(time.Duration(ms) * time.Millisecond) }
	run := func(process, attempt, from, to int, failed bool) Run {
		r := Run{Group: Flaky, ID: "e", Attempt: attempt, Process: process, Begin: at(from), Failed: failed}
		if to > 0 {
			r.End = at(to)
		}
		return r
	}
	for name, test := range map[string]struct {
		runs    []Run
		dead    bool
		trouble []Trouble
		finding string // empty: none
		excused string
	}{
		"handled once":                     {runs: []Run{run(1, 1, 0, 10, false)}},
		"missing":                          {finding: "missing"},
		"dead":                             {runs: []Run{run(1, 1, 0, 10, true)}, dead: true},
		"failed and gone":                  {runs: []Run{run(1, 1, 0, 10, true)}, finding: "never handled"},
		"retried":                          {runs: []Run{run(1, 1, 0, 10, true), run(2, 2, 50, 60, false)}},
		"wrong attempt":                    {runs: []Run{run(1, 1, 0, 10, true), run(2, 1, 50, 60, false)}, finding: "attempt 1 after 1 failures"},
		"twice":                            {runs: []Run{run(1, 1, 0, 10, false), run(2, 1, 50, 60, false)}, finding: "handled again"},
		"at the same time":                 {runs: []Run{run(1, 1, 0, 100, true), run(2, 1, 50, 60, false)}, finding: "handled again"},
		"killed during it":                 {runs: []Run{run(1, 1, 0, 0, false), run(2, 1, 50, 60, false)}, trouble: []Trouble{{"killed", 1, at(5), at(5)}}, excused: "killed"},
		"begun while it was killed":        {runs: []Run{run(1, 1, 6, 0, false), run(2, 1, 50, 60, false)}, trouble: []Trouble{{"killed", 1, at(5), at(7)}}, excused: "killed"},
		"killed just after it":             {runs: []Run{run(1, 1, 0, 10, false), run(2, 1, 50, 60, false)}, trouble: []Trouble{{"killed", 1, at(59), at(59)}}, excused: "killed"},
		"killed later":                     {runs: []Run{run(1, 1, 0, 10, false), run(2, 1, 90, 99, false)}, trouble: []Trouble{{"killed", 1, at(61), at(61)}}, finding: "handled again"},
		"killed as soon as Redis was back": {runs: []Run{run(1, 1, 0, 10, false), run(2, 1, 9000, 9010, false)}, trouble: []Trouble{{"redis killed", 0, at(8), at(2000)}, {"killed", 1, at(3000), at(3000)}}, excused: "killed"},
		"killed long after Redis was back": {runs: []Run{run(1, 1, 0, 10, false), run(2, 1, 9000, 9010, false)}, trouble: []Trouble{{"redis killed", 0, at(8), at(2000)}, {"killed", 1, at(3600), at(3600)}}, finding: "handled again"},
		"another was killed":               {runs: []Run{run(1, 1, 0, 10, false), run(2, 1, 50, 60, false)}, trouble: []Trouble{{"killed", 3, at(5), at(5)}}, finding: "handled again"},
		"stopped is no excuse":             {runs: []Run{run(1, 1, 0, 10, false), run(2, 1, 50, 60, false)}, trouble: []Trouble{{"stopped", 1, at(5), at(20)}}, finding: "handled again"},
		"frozen for long":                  {runs: []Run{run(1, 1, 0, 9000, false), run(2, 1, 8000, 8010, false)}, trouble: []Trouble{{"frozen", 1, at(5), at(8500)}}, excused: "frozen"},
		"frozen from 2 s after its beat":   {runs: []Run{run(1, 1, 0, 4800, false), run(2, 1, 4500, 4510, false)}, trouble: []Trouble{{"frozen", 1, at(250), at(4790)}}, excused: "frozen"},
		"frozen for a moment":              {runs: []Run{run(1, 1, 0, 9000, false), run(2, 1, 8000, 8010, false)}, trouble: []Trouble{{"frozen", 1, at(5), at(3000)}}, finding: "handled again"},
		"group destroyed":                  {runs: []Run{run(1, 1, 0, 10, false), run(2, 1, 500, 510, false)}, trouble: []Trouble{{"group destroyed", 0, at(400), at(400)}}, excused: "group destroyed"},
		"without an end in a live one":     {runs: []Run{run(1, 1, 0, 0, false)}, dead: true, finding: "never ended"},
		"killed, and nobody took over":     {runs: []Run{run(1, 1, 0, 0, false)}, trouble: []Trouble{{"killed", 1, at(5), at(5)}}, finding: "never handled"},
		"killed, taken over soon":          {runs: []Run{run(1, 1, 0, 0, false), run(2, 1, 12000, 12010, false)}, trouble: []Trouble{{"killed", 1, at(5), at(5)}}, excused: "killed"},
		"killed, taken over late":          {runs: []Run{run(1, 1, 0, 0, false), run(2, 1, 12006, 12010, false)}, trouble: []Trouble{{"killed", 1, at(5), at(5)}}, finding: "ran again late", excused: "killed"},
		"late since Redis was frozen":      {runs: []Run{run(1, 1, 0, 0, false), run(2, 1, 22000, 22010, false)}, trouble: []Trouble{{"killed", 1, at(5), at(5)}, {"redis frozen", 0, at(9000), at(10500)}}, excused: "killed"},
		"late though Redis was back":       {runs: []Run{run(1, 1, 0, 0, false), run(2, 1, 23000, 23010, false)}, trouble: []Trouble{{"killed", 1, at(5), at(5)}, {"redis frozen", 0, at(9000), at(10500)}}, finding: "ran again late", excused: "killed"},
		"late long before the trouble":     {runs: []Run{run(1, 1, 0, 0, false), run(2, 1, 22000, 22010, false)}, trouble: []Trouble{{"killed", 1, at(5), at(5)}, {"redis frozen", 0, at(13000), at(14500)}}, finding: "ran again late", excused: "killed"},
		"the result of a failure is lost":  {runs: []Run{run(1, 1, 0, 10, true), run(2, 1, 50, 60, false)}, trouble: []Trouble{{"killed", 1, at(12), at(12)}}},
	} {
		l := Ledger{Grace: 50 * time.Millisecond, Published: map[string]bool{"e": true}, Trouble: test.trouble, Runs: append(test.runs, Run{Group: Steady, ID: "e", Attempt: 1, Process: 9, Begin: at(0), End: at(1)})}
		if test.dead {
			l.Dead = map[string]map[string]bool{Flaky: {"e": true}}
		}
		r := Account(l)
		switch {
		case test.finding == "" && len(r.Findings) > 0, test.finding != "" && len(r.Findings) == 0:
			t.Errorf("%s: found %v, want %q", name, r.Findings, test.finding)
		case test.finding != "" && !slices.ContainsFunc(r.Findings, func(f Finding) bool { return strings.Contains(f.Rule, test.finding) }):
			t.Errorf("%s: found %v, want %q", name, r.Findings, test.finding)
		}
		if got := strings.Join(slices.Collect(maps.Keys(r.Excused)), " "); got != test.excused {
			t.Errorf("%s: excused by %q, want %q", name, got, test.excused)
		}
	}
}
