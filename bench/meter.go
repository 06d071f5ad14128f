package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rishi-platform/millrace/internal/loadgen"
)

// meter looks at clock, CPU and memory before and after.
type meter struct {
	kind   string
	server func() (serverUsage, error)
	before snapshot
}

// serverUsage is what a server has used since its start.
type serverUsage struct {
	cpu    time.Duration
	memory float64 // bytes that hold data; Redis only
}

type snapshot struct {
	at      time.Time
	client  time.Duration
	server  serverUsage
	mallocs uint64
}

// newMeter returns a meter whose server is Redis.
func newMeter(s spec) (*meter, error) {
	c, err := dial(s.Server)
	if err != nil {
		return nil, err
	}
	return &meter{kind: s.Kind, server: func() (serverUsage, error) { return redisUsage(c) }}, nil
}

// start begins to measure, with a heap that was just cleaned of what preparing left.
func (m *meter) start() error {
	runtime.GC()
	var err error
	m.before, err = m.look()
	return err
}

// stop returns what one event took of those since start.
func (m *meter) stop(events int) (sample, error) {
	at := time.Now() // before the server is asked
	after, err := m.look()
	if err != nil {
		return nil, err
	}
	n := float64(events)
	microseconds := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
	got := sample{
		perSecond: n / at.Sub(m.before.at).Seconds(),
		clientCPU: microseconds(after.client-m.before.client) / n,
		serverCPU: microseconds(after.server.cpu-m.before.server.cpu) / n,
		allocs:    float64(after.mallocs-m.before.mallocs) / n,
		rss:       peakRSS(),
	}
	if m.kind == kindMemory {
		got[entryBytes] = (after.server.memory - m.before.server.memory) / n
	}
	return got, nil
}

func (m *meter) look() (snapshot, error) {
	server, err := m.server()
	if err != nil {
		return snapshot{}, fmt.Errorf("ask the server what it has used: %w", err)
	}
	client, err := ownCPU()
	if err != nil {
		return snapshot{}, err
	}
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	return snapshot{at: time.Now(), client: client, server: server, mallocs: memory.Mallocs}, nil
}

func (s sample) addLatencies(l *loadgen.Latencies) {
	if l.Len() > 0 {
		s[p50] = float64(l.Quantile(0.5)) / float64(time.Millisecond)
		s[p99] = float64(l.Quantile(0.99)) / float64(time.Millisecond)
	}
}

// ownCPU is what this process has used, user and system.
func ownCPU() (time.Duration, error) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0, fmt.Errorf("getrusage: %w", err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), nil
}

// redisUsage asks INFO.
func redisUsage(c *conn) (serverUsage, error) {
	var values [3]float64
	for i, line := range [][2]string{{"cpu", "used_cpu_sys"}, {"cpu", "used_cpu_user"}, {"memory", "used_memory"}} {
		text, err := c.info(line[0], line[1])
		if err != nil {
			return serverUsage{}, err
		}
		if values[i], err = strconv.ParseFloat(text, 64); err != nil {
			return serverUsage{}, fmt.Errorf("%s: %w", line[1], err)
		}
	}
	return serverUsage{cpu: time.Duration((values[0] + values[1]) * float64(time.Second)), memory: values[2]}, nil
}

// peakRSS is the most memory that was resident, in MiB. On Linux it is not getrusage's, which begins with that of the parent, of whose
// memory the child was a copy until its exec.
func peakRSS() float64 {
	if status, err := os.ReadFile("/proc/self/status"); err == nil {
		for lines := bufio.NewScanner(bytes.NewReader(status)); lines.Scan(); {
			if value, found := strings.CutPrefix(lines.Text(), "VmHWM:"); found {
				kib, _ := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(value, "kB")), 64)
				return kib / 1024
			}
		}
	}
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return float64(usage.Maxrss) / (1 << 20) // bytes, where there is no /proc
}
