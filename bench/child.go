package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/pprof"
)

// spec is what a child process is told, as JSON in its one argument. A binary of another revision may read it (--against): fields
// are added, never changed.
type spec struct {
	Case
	Addr    string `json:"addr"`    // where the client of the system connects: the proxy, or the server
	Server  string `json:"server"`  // the server itself, for everything that is not measured
	Profile string `json:"profile"` // files to write profiles to, without .cpu.prof and .allocs.prof; empty: none
}

// sample is what one run of a case came to. Its keys are those of the fields in --json.
type sample map[string]float64

const (
	perSecond  = "msgs_per_s"
	p50        = "p50_ms"
	p99        = "p99_ms"
	serverCPU  = "server_cpu_us_per_event"
	clientCPU  = "client_cpu_us_per_event"
	allocs     = "allocs_per_event"
	entryBytes = "bytes_per_entry"
	durable    = "durable_again_s" // of a drain under live traffic
	rss        = "rss_mib"
)

// systems says how each system is driven.
var systems = map[string]func(context.Context, spec) (sample, error){
	systemLimit:     runLimit,
	systemMillrace:  runMillrace,
	systemWatermill: runWatermill,
	systemAsynq:     runAsynq,
	systemNATS:      runNATS,
	systemGoRedis:   runGoRedis,
}

// runChild measures one case in this process and prints its sample. The process ends with it, so nothing is taken down in good order
// that does not have to be.
func runChild(ctx context.Context, argument string, stdout io.Writer) error {
	var s spec
	if err := json.Unmarshal([]byte(argument), &s); err != nil {
		return fmt.Errorf("read the case: %w", err)
	}
	run := systems[s.System]
	if run == nil {
		return fmt.Errorf("system %q is not known", s.System)
	}
	profiled, err := startProfile(s.Profile)
	if err != nil {
		return err
	}
	got, err := run(ctx, s)
	if err := errors.Join(err, profiled()); err != nil {
		return err
	}
	return json.NewEncoder(stdout).Encode(got)
}

// startProfile begins a CPU profile and returns the function that ends it and adds one of allocations.
func startProfile(base string) (stop func() error, err error) {
	if base == "" {
		return func() error { return nil }, nil
	}
	cpu, err := os.Create(base + ".cpu.prof")
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(cpu); err != nil {
		return nil, err
	}
	return func() error {
		pprof.StopCPUProfile()
		allocs, err := os.Create(base + ".allocs.prof")
		if err != nil {
			return err
		}
		return errors.Join(cpu.Close(), pprof.Lookup("allocs").WriteTo(allocs, 0), allocs.Close())
	}, nil
}
