package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// counters are what a Redis server has counted since its start, and what this process has used.
type counters struct {
	at      time.Time
	client  time.Duration // CPU of this process
	cpu     float64       // seconds
	scripts float64
	// commands are those that were called, by clients and by scripts.
	commands float64
	in, out  float64 // bytes from and to clients
	aof      float64 // bytes of the append-only file
	clients  float64
	reply    int // bytes of the reply that all this was read from
}

// infoSections are those that parseCounters reads.
var infoSections = []string{"INFO", "clients", "cpu", "stats", "persistence", "commandstats"}

// countersOf asks the server with one command: what this costs can be taken off again.
func countersOf(c *conn) (counters, error) {
	info, err := c.do(infoSections...)
	if err != nil {
		return counters{}, err
	}
	got, err := parseCounters(info)
	if err != nil {
		return counters{}, err
	}
	got.at = time.Now()
	got.client, err = ownCPU()
	return got, err
}

// parseCounters reads the reply of INFO.
func parseCounters(info string) (counters, error) {
	got := counters{reply: len(fmt.Sprintf("$%d\r\n%s\r\n", len(info), info))}
	var user, system float64
	missing := map[string]*float64{
		"used_cpu_user": &user, "used_cpu_sys": &system,
		"total_commands_processed": &got.commands,
		"total_net_input_bytes":    &got.in, "total_net_output_bytes": &got.out,
		"aof_current_size": &got.aof, "connected_clients": &got.clients,
	}
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		to := missing[name]
		switch {
		case isScript(name):
			calls, err := callsOf(value)
			if err != nil {
				return got, fmt.Errorf("INFO %s: %w", name, err)
			}
			got.scripts += calls
		case to != nil:
			number, err := strconv.ParseFloat(value, 64)
			if err != nil {
				return got, fmt.Errorf("INFO %s: %w", name, err)
			}
			*to = number
			delete(missing, name)
		}
	}
	for name := range missing {
		return got, fmt.Errorf("INFO has no %s", name) // without appendonly it has no aof_current_size
	}
	got.cpu = user + system
	return got, nil
}

// isScript reports whether a line of commandstats is about a command that runs a script: EVAL, EVALSHA, FCALL or one of their
// variants that only read.
func isScript(name string) bool {
	command, found := strings.CutPrefix(name, "cmdstat_")
	return found && (strings.HasPrefix(command, "eval") || strings.HasPrefix(command, "fcall"))
}

// callsOf reads the number of calls of a line of commandstats: calls=12,usec=345,….
func callsOf(value string) (float64, error) {
	for field := range strings.SplitSeq(value, ",") {
		if calls, found := strings.CutPrefix(field, "calls="); found {
			return strconv.ParseFloat(calls, 64)
		}
	}
	return 0, fmt.Errorf("%q has no calls", value)
}

// until returns what was done between two looks, but for the looks themselves: the server counts a command when it has run, and
// bytes when they come and go. So the first INFO and its reply are among what it did, and the request of the second one.
func (c counters) until(after counters, instances int) sample {
	seconds := after.at.Sub(c.at).Seconds()
	return sample{
		serverLoad:  100 * (after.cpu - c.cpu) / seconds,
		scriptRate:  (after.scripts - c.scripts) / seconds,
		commandRate: (after.commands - c.commands - 1) / seconds,
		replyRate:   (after.out - c.out - float64(c.reply)) / seconds,
		requestRate: (after.in - c.in - float64(len(appendCommand(nil, infoSections...)))) / seconds,
		aofRate:     (after.aof - c.aof) / seconds,
		connections: perInstance(after.clients-1, instances),
		clientLoad:  perInstance(100*(after.client-c.client).Seconds()/seconds, instances),
	}
}

func perInstance(v float64, instances int) float64 { return v / float64(instances) }
