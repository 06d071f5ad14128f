package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// idleOptions are what the user asked for of the idle cases.
type idleOptions struct {
	instances []int         // a case for each number
	settle    time.Duration // from a fleet that is idle to the window
	window    time.Duration // in which everything is counted
}

// The fleet of docs/performance.md, and the small one of --quick.
const (
	idleStreams, idleGroups           = 50, 20
	idleStreamsQuick, idleGroupsQuick = 5, 4
)

// startPatience is how long a fleet may take to join and to be idle. One that does not manage is measured as it is then.
const startPatience = time.Minute

// Measures of the idle cases, in a sample.
const (
	serverLoad      = "server_cpu_percent" // of one core
	scriptRate      = "scripts_per_s"
	commandRate     = "commands_per_s" // those that scripts call are among them
	replyRate       = "reply_bytes_per_s"
	requestRate     = "request_bytes_per_s"
	aofRate         = "aof_bytes_per_s"
	connections     = "connections_per_instance"
	connectionsPeak = "connections_per_instance_peak" // since the fleet started
	clientLoad      = "client_cpu_percent_per_instance"
	joinedShare     = "joined_percent" // of what should be consumers at streams: below 100, the fleet did not get started
)

// withDefaults fills in the times that were not given.
func (o idleOptions) withDefaults(quick bool) idleOptions {
	if quick {
		setDefault(&o.settle, time.Second)
		setDefault(&o.window, 2*time.Second)
	}
	// Consumers come to rest only after a while.
	setDefault(&o.settle, 45*time.Second)
	setDefault(&o.window, 30*time.Second)
	return o
}

// parseInstances reads numbers that are separated by commas.
func parseInstances(text string) ([]int, error) {
	var numbers []int
	seen := map[int]bool{}
	for field := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(field))
		if err != nil || n < 1 || seen[n] {
			return nil, fmt.Errorf("%q: want different numbers above 0, separated by commas", text)
		}
		seen[n] = true
		numbers = append(numbers, n)
	}
	return numbers, nil
}

// idleCases returns a case for each number of instances. They are run once: what is counted over a window hardly varies.
func idleCases(o idleOptions, quick bool) []Case {
	o = o.withDefaults(quick)
	streams, groups := idleStreams, idleGroups
	if quick {
		streams, groups = idleStreamsQuick, idleGroupsQuick
	}
	all := make([]Case, 0, len(o.instances))
	for _, n := range o.instances {
		p := plan{Case: Case{
			System: systemMillrace, Name: fmt.Sprintf("%s/%d-instances", kindIdle, n), once: true,
			Instances: n, Streams: streams, Groups: groups, Settle: o.settle, Window: o.window,
		}}
		all = append(all, p.at(0))
	}
	return all
}

// runIdle starts a fleet, waits until it has nothing to do and has come to rest, and counts what it does then.
func runIdle(ctx context.Context, s spec) (sample, error) {
	c, err := dial(s.Server)
	if err != nil {
		return nil, err
	}
	peak, err := watchConnections(s.Server)
	if err != nil {
		return nil, err
	}
	progress(os.Stderr, "%d instances of %d groups that follow %d streams are starting", s.Instances, s.Groups, s.Streams)
	begin := time.Now()
	f, err := startFleet(ctx, s)
	if err != nil {
		return nil, err
	}
	idle, err := f.awaitIdle(ctx, c, startPatience)
	if err != nil {
		return nil, err
	}
	joined, err := f.joined(c)
	if err != nil {
		return nil, err
	}
	progress(os.Stderr, "after %.1f s %.0f %% of the consumers have joined, idle: %t; they come to rest for %s", time.Since(begin).Seconds(), joined, idle, s.Settle)
	if err := pause(ctx, s.Settle); err != nil {
		return nil, err
	}
	most, err := peak()
	if err != nil {
		return nil, err
	}
	handled := f.handled.Load()
	before, err := countersOf(c)
	if err != nil {
		return nil, err
	}
	progress(os.Stderr, "they are measured for %s", s.Window)
	if err := pause(ctx, s.Window); err != nil {
		return nil, err
	}
	after, err := countersOf(c)
	if err != nil {
		return nil, err
	}
	if n := f.handled.Load() - handled; n != 0 && idle {
		return nil, fmt.Errorf("the fleet was not idle: it handled %d events", n)
	}
	got := before.until(after, s.Instances)
	got[connectionsPeak] = max(perInstance(most, s.Instances), got[connections])
	got[joinedShare], err = f.joined(c)
	return got, err
}

// pause returns after d, or with an error when ctx ends before.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
