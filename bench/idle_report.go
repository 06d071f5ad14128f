package main

import (
	"fmt"
	"strings"
)

// idleMeasures are the columns of the idle cases, in their order.
var idleMeasures = []struct {
	key, head string
	format    func(float64) string
}{
	{serverLoad, "server CPU %", digits(1)},
	{scriptRate, "scripts/s", thousands},
	{commandRate, "commands/s", thousands},
	{requestRate, "requests kB/s", kilobytes},
	{replyRate, "replies kB/s", kilobytes},
	{aofRate, "AOF kB/s", kilobytes},
	{aofRate, "AOF GB/day", gigabytesPerDay},
	{connections, "connections", digits(1)},
	{connectionsPeak, "at most", digits(1)},
	{clientLoad, "client CPU %", digits(1)},
	{joinedShare, "joined %", digits(0)},
}

func kilobytes(v float64) string { return digits(1)(v / 1e3) }

func gigabytesPerDay(v float64) string { return digits(2)(v * 24 * 3600 / 1e9) }

// idleRow is what came of one idle case; its JSON is a line of --json.
type idleRow struct {
	Case            string  `json:"case"`
	System          string  `json:"system"`
	Kind            string  `json:"kind"`
	Instances       int     `json:"instances"`
	Groups          int     `json:"groups"`
	Streams         int     `json:"streams"`
	Settle          float64 `json:"settle_s"`
	Window          float64 `json:"window_s"`
	ServerLoad      measure `json:"server_cpu_percent"`
	ScriptRate      measure `json:"scripts_per_s"`
	CommandRate     measure `json:"commands_per_s"`
	RequestRate     measure `json:"request_bytes_per_s"`
	ReplyRate       measure `json:"reply_bytes_per_s"`
	AOFRate         measure `json:"aof_bytes_per_s"`
	Connections     measure `json:"connections_per_instance"`
	ConnectionsPeak measure `json:"connections_per_instance_peak"`
	ClientLoad      measure `json:"client_cpu_percent_per_instance"`
	JoinedShare     measure `json:"joined_percent"`
}

// split parts the cases about events from the idle ones, which have other measures.
func split(all []Case) (events, idle []Case) {
	for _, c := range all {
		if c.Kind == kindIdle {
			idle = append(idle, c)
		} else {
			events = append(events, c)
		}
	}
	return events, idle
}

// idleRows returns a row for each idle case.
func idleRows(all []Case, r results) []idleRow {
	_, idle := split(all)
	rows := make([]idleRow, 0, len(idle))
	for _, c := range idle {
		of := func(key string) measure { return measure(median(r.values(c.Name, key))) }
		rows = append(rows, idleRow{
			Case: c.Name, System: c.System, Kind: c.Kind, Instances: c.Instances, Groups: c.Groups, Streams: c.Streams,
			Settle: c.Settle.Seconds(), Window: c.Window.Seconds(),
			ServerLoad: of(serverLoad), ScriptRate: of(scriptRate), CommandRate: of(commandRate),
			RequestRate: of(requestRate), ReplyRate: of(replyRate), AOFRate: of(aofRate),
			Connections: of(connections), ConnectionsPeak: of(connectionsPeak), ClientLoad: of(clientLoad), JoinedShare: of(joinedShare),
		})
	}
	return rows
}

// printIdle prints a table of the idle cases, nothing where there are none.
func printIdle(w *strings.Builder, all []Case, r results) {
	_, idle := split(all)
	if len(idle) == 0 {
		return
	}
	lines := [][]string{{"case"}}
	for _, m := range idleMeasures {
		lines[0] = append(lines[0], m.head)
	}
	for _, c := range idle {
		line := []string{c.Name}
		for _, m := range idleMeasures {
			line = append(line, measure(median(r.values(c.Name, m.key))).text(m.format))
		}
		lines = append(lines, line)
	}
	writeTable(w, "lr", lines)
	w.WriteString(fleetOf(idle[0]) + "\n")
}

// printIdleComparison prints now and then of the idle cases, a line for each measure.
func printIdleComparison(w *strings.Builder, all []Case, now, then results) {
	_, idle := split(all)
	if len(idle) == 0 {
		return
	}
	lines := [][]string{{"case", "measure", "now", "then", "now / then"}}
	for i, c := range idle {
		if i > 0 {
			lines = append(lines, nil)
		}
		for _, m := range idleMeasures {
			value := func(r results) string { return measure(median(r.values(c.Name, m.key))).text(m.format) }
			ratio := measure(medianRatio(now[c.Name], then[c.Name], m.key)).text(digits(3))
			lines = append(lines, []string{c.Name, m.head, value(now), value(then), ratio})
		}
	}
	writeTable(w, "llr", lines)
	w.WriteString(fleetOf(idle[0]))
}

// fleetOf is the line below a table of idle cases, which differ in their instances only.
func fleetOf(c Case) string {
	return fmt.Sprintf("Once, %d streams × %d groups, for %s after %s of rest. CPU in %% of one core; connections and the client's CPU of one instance.\n",
		c.Streams, c.Groups, c.Window, c.Settle)
}

// idleString is the line of progress of an idle case.
func (s sample) idleString() string {
	return fmt.Sprintf("server %.1f %% of a core  %s scripts/s  AOF %s kB/s  %.1f connections per instance",
		s[serverLoad], thousands(s[scriptRate]), kilobytes(s[aofRate]), s[connections])
}
