package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// server is a Redis or NATS server in a process of its own. Each run of a case gets a fresh one.
type server struct {
	addr   string
	cmd    *exec.Cmd
	stdin  io.Closer // nil for Redis
	exited chan struct{}
}

const (
	// patience is how long a server may take to start, and to end before it is killed.
	patience = 20 * time.Second
	// startTries is how often Redis is started on another port when the first one was taken meanwhile.
	startTries = 5
)

// Settings of Redis: what is written to disk.
var (
	nothingPersisted = []string{"--save", "", "--appendonly", "no"}
	// The file is never rewritten, so that it grows by what is appended to it.
	everythingAppended = []string{"--save", "", "--appendonly", "yes", "--auto-aof-rewrite-percentage", "0"}
)

// startServer starts what a case stands on, with its files in dir, which it makes.
func startServer(ctx context.Context, c Case, dir string) (*server, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	if c.System == systemNATS {
		return startNATS(ctx, dir)
	}
	persistence := nothingPersisted
	switch c.Kind {
	case kindIdle:
		persistence = everythingAppended
	case kindDrain:
		persistence = append(slices.Clone(everythingAppended), "--appendfsync", c.Fsync)
	}
	var err error
	for range startTries {
		var s *server
		if s, err = startRedis(ctx, dir, persistence); err == nil {
			return s, nil
		}
	}
	return nil, err
}

func startRedis(ctx context.Context, dir string, persistence []string) (*server, error) {
	binary, err := findRedis(os.Getenv, exec.LookPath)
	if err != nil {
		return nil, err
	}
	// Below the range from which systems take the local ports of outgoing connections, and below that of the tests, whose servers give
	// their ports up for a while.
	port := strconv.Itoa(10_000 + rand.N(10_000))
	s := &server{addr: net.JoinHostPort("127.0.0.1", port), exited: make(chan struct{})}
	s.cmd = child(binary, append([]string{"--bind", "127.0.0.1", "--port", port, "--dir", dir}, persistence...)...)
	said := &bytes.Buffer{}
	s.cmd.Stdout, s.cmd.Stderr = said, said
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", filepath.Base(binary), err)
	}
	go s.reap()
	if err := s.awaitRedis(ctx); err != nil {
		s.stop()
		return nil, fmt.Errorf("start %s: %w; it said:\n%s", filepath.Base(binary), err, said)
	}
	return s, nil
}

// findRedis says which binary to start, as the tests do: the one that MILLRACE_REDIS_SERVER names, else the one on PATH.
func findRedis(getenv func(string) string, lookPath func(string) (string, error)) (string, error) {
	const variable = "MILLRACE_REDIS_SERVER"
	if name := getenv(variable); name != "" {
		path, err := lookPath(name)
		if err != nil {
			return "", fmt.Errorf("find the server that %s names: %w", variable, err)
		}
		return path, nil
	}
	for _, name := range []string{"redis-server", "valkey-server"} {
		if path, err := lookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New(`no redis-server on PATH: run "make deps", or name one in ` + variable)
}

// awaitRedis returns when this very process answers: somebody else may have taken the port.
func (s *server) awaitRedis(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		pid, err := askPID(s.addr)
		if err == nil && pid != strconv.Itoa(s.cmd.Process.Pid) {
			return fmt.Errorf("process %s has the port", pid)
		}
		if err == nil {
			return nil
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-s.exited:
			return errors.New("it has ended")
		case <-ctx.Done():
			return fmt.Errorf("it does not answer (last: %w): %w", err, context.Cause(ctx))
		}
	}
}

func askPID(addr string) (string, error) {
	c, err := dial(addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return "", err
	}
	return c.info("server", "process_id")
}

// startNATS starts this program as a JetStream server.
func startNATS(ctx context.Context, dir string) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s := &server{cmd: child(self, commandNATS, dir), exited: make(chan struct{})}
	s.cmd.Stderr = os.Stderr
	s.stdin, err = s.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a nats-server: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = s.cmd.Process.Kill() })
	defer stop()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	go s.reap()
	if err != nil {
		s.stop()
		return nil, fmt.Errorf("start a nats-server: %w", err)
	}
	s.addr = strings.TrimSpace(line)
	return s, nil
}

// reap waits for the process, so that it can be seen to have ended.
func (s *server) reap() {
	_ = s.cmd.Wait() // how it ended does not matter
	close(s.exited)
}

// stop ends the server and returns when it is gone. What it held is of no use to anybody, so Redis is not asked first.
func (s *server) stop() {
	if s.stdin != nil {
		_ = s.stdin.Close()
		select {
		case <-s.exited:
			return
		case <-time.After(patience):
		}
	}
	_ = s.cmd.Process.Kill()
	<-s.exited
}

// child is a command that dies with this process, however that ends.
func child(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = dieWithParent()
	return cmd
}
