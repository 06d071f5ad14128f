package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// runner runs cases, each in a process of its own, on a server of its own.
type runner struct {
	dir      string // of this run, removed at its end
	profiles string // folder for profiles; empty: none
	log      func(format string, args ...any)
	proxyOwn time.Duration // what the proxy takes by itself in one direction
}

// caseTimeout is how long a case may take, and an idle one beside the time in which it waits. One that can't keep up, or hangs, must
// not hold up the others for ever.
const caseTimeout = 2 * time.Minute

var errTooLong = errors.New("it took too long")

// contender is a binary whose cases are run: this one, and with --against that of another revision.
type contender struct {
	name   string // in progress lines; empty where there is only one
	binary string
	cases  []Case
}

// results are the samples of each case of one contender, by round; nil where a run failed.
type results map[string][]sample

// run runs all cases of all contenders round after round, each case of one after the same case of the other, so that what the machine
// does meanwhile happens to all of them. It returns what there is when ctx ends.
func (r *runner) run(ctx context.Context, contenders []contender, rounds int) ([]results, error) {
	all := make([]results, len(contenders))
	for i := range all {
		all[i] = results{}
	}
	n := len(contenders[0].cases)
	var failures []error
	for round := range rounds {
		for i := range n {
			for turn := range contenders {
				which := (turn + round) % len(contenders) // who is first changes, too
				c := contenders[which].cases[i]
				if c.once && round > 0 {
					continue
				}
				got, err := r.measure(ctx, contenders[which].binary, c, round)
				if ctx.Err() != nil {
					return all, context.Cause(ctx)
				}
				label := fmt.Sprintf("round %d/%d  %2d/%d  %-52s", round+1, rounds, i+1, n, strings.TrimSpace(contenders[which].name+" "+c.Name))
				if err != nil {
					failures = append(failures, fmt.Errorf("%s: %w", c.Name, err))
					r.log("%s FAILED: %v", label, err)
				} else {
					r.log("%s %s", label, got)
				}
				all[which][c.Name] = append(all[which][c.Name], got)
			}
		}
	}
	return all, errors.Join(failures...)
}

// measure runs one case once.
func (r *runner) measure(ctx context.Context, binary string, c Case, round int) (sample, error) {
	timeout := caseTimeout + c.Settle + c.Window
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("%w: more than %s", errTooLong, timeout))
	defer cancel()
	dir := filepath.Join(r.dir, "server")
	defer os.RemoveAll(dir)
	server, err := startServer(ctx, c, dir)
	if err != nil {
		return nil, err
	}
	defer server.stop()
	s := spec{Case: c, Addr: server.addr, Server: server.addr}
	if c.RTT > 0 {
		p, err := startProxy(server.addr, time.Duration(c.RTT*float64(time.Millisecond)), r.proxyOwn)
		if err != nil {
			return nil, err
		}
		defer p.close()
		s.Addr = p.addr()
	}
	if r.profiles != "" {
		name := strings.NewReplacer("/", "-", "@", "-").Replace(c.Name)
		s.Profile = filepath.Join(r.profiles, fmt.Sprintf("%s-%d", name, round+1))
	}
	return r.runInChild(ctx, binary, s)
}

// runInChild runs a case in a new process and returns what it measured.
func (r *runner) runInChild(ctx context.Context, binary string, s spec) (sample, error) {
	argument, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	cmd := child(binary, commandChild, string(argument))
	// The settings of whoever runs the benchmark must not make one run differ from another.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "GOGC=") || strings.HasPrefix(v, "GOMEMLIMIT=") || strings.HasPrefix(v, "GODEBUG=")
	})
	cmd.Env = append(cmd.Env, fmt.Sprintf("GOGC=%d", s.GOGC))
	var stdout bytes.Buffer
	stderr := listener{log: r.log}
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	defer close(ended)
	stop := context.AfterFunc(ctx, func() { end(cmd.Process, context.Cause(ctx), ended) })
	defer stop()
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("%w; it said:\n%s", err, head(stderr.said.String(), 20_000))
	}
	var got sample
	if err := json.Unmarshal(stdout.Bytes(), &got); err != nil {
		return nil, fmt.Errorf("read what the case said: %w", err)
	}
	return got, nil
}

// end ends a child. One that took too long is first asked what all its goroutines do.
func end(child *os.Process, why error, ended <-chan struct{}) {
	if errors.Is(why, errTooLong) {
		_ = child.Signal(syscall.SIGQUIT)
		select {
		case <-ended:
			return
		case <-time.After(5 * time.Second):
		}
	}
	_ = child.Kill()
}

func head(s string, n int) string {
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}

// String is the line of progress.
func (s sample) String() string {
	if _, ok := s[scriptRate]; ok {
		return s.idleString()
	}
	line := fmt.Sprintf("%9s/s", thousands(s[perSecond]))
	if median, ok := s[p50]; ok {
		line += fmt.Sprintf("  p50 %.2f ms  p99 %.2f ms", median, s[p99])
	}
	if bytes, ok := s[entryBytes]; ok {
		line += fmt.Sprintf("  %.0f B/entry", bytes)
	}
	return line
}

// survey measures what the proxy takes by itself, and says what the numbers stand on: the machine, the server, and what the proxy
// really adds, as the median of many PINGs.
func (r *runner) survey(ctx context.Context) (string, error) {
	dir := filepath.Join(r.dir, "server")
	defer os.RemoveAll(dir)
	server, err := startServer(ctx, Case{System: systemLimit}, dir)
	if err != nil {
		return "", err
	}
	defer server.stop()
	c, err := dial(server.addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	version, err := c.info("server", "redis_version")
	if err != nil {
		return "", err
	}
	near, err := pingTime(server.addr)
	if err != nil {
		return "", err
	}
	const rtt = time.Millisecond
	uncorrected, err := r.pingFar(server.addr, rtt)
	if err != nil {
		return "", err
	}
	r.proxyOwn = max(0, (uncorrected-near-rtt)/2)
	far, err := r.pingFar(server.addr, rtt)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d cores, %s, Redis %s. A PING takes %.2f ms, through the proxy of 1 ms %.2f ms.",
		runtime.NumCPU(), runtime.Version(), version, near.Seconds()*1000, far.Seconds()*1000), nil
}

// pingFar is pingTime through a proxy.
func (r *runner) pingFar(server string, rtt time.Duration) (time.Duration, error) {
	p, err := startProxy(server, rtt, r.proxyOwn)
	if err != nil {
		return 0, err
	}
	defer p.close()
	return pingTime(p.addr())
}

func pingTime(addr string) (time.Duration, error) {
	c, err := dial(addr)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	times := make([]float64, 500)
	for i := range times {
		begin := time.Now()
		if _, err := c.do("PING"); err != nil {
			return 0, err
		}
		times[i] = float64(time.Since(begin))
	}
	return time.Duration(median(times)), nil
}
