package redistest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"github.com/redis/go-redis/v9"
)

// startTries is how often a server is started on another port when the first one was taken between the look and the start.
const startTries = 5

// Server is a redis-server of this test binary. It keeps its port and its folder when it is stopped and started again.
type Server struct {
	binary string
	args   []string
	port   int
	dir    string
	shared bool

	command func(*Server) []string // the arguments of one that is no plain server; nil: arguments
	alone   *redis.Client          // of this server; see node

	// mu makes each change of the process one step, waiting included: a restart asked for over a socket must not meet a stop
	// by the test halfway.
	mu      sync.Mutex
	process *process
}

// Start starts a server for this test alone and stops it in its Cleanup. The arguments come after the defaults
// (--save "" --appendonly no --enable-debug-command yes) and win over them. When the test fails, the end of the server's log
// is in its output.
func Start(tb testing.TB, args ...string) *Server {
	tb.Helper()
	dir := tb.TempDir() // Before Cleanup, so that it is removed after the server has ended.
	s, err := newServer(dir, args)
	if err != nil {
		tb.Fatalf("start a redis-server: %v", err)
	}
	tb.Cleanup(func() {
		s.end()
		if tb.Failed() {
			tb.Logf("end of the log of redis-server at %s:\n%s", s.Addr(), s.logTail())
		}
	})
	return s
}

// newServer starts a server in dir.
func newServer(dir string, args []string) (*Server, error) {
	return startServer(&Server{args: args, dir: dir})
}

// newServerOf starts the server with other arguments.
func newServerOf(dir string, command func(*Server) []string) (*Server, error) {
	return startServer(&Server{dir: dir, command: command})
}

// startServer starts a server. Only a start on a port that somebody took meanwhile is tried again.
func startServer(of *Server) (*Server, error) {
	binary, err := findServer(os.Getenv, exec.LookPath)
	if err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		s := &Server{binary: binary, args: of.args, port: port, dir: of.dir, command: of.command}
		if slices.Contains(of.args, "--cluster-enabled") { // else its bus takes the port 10,000 above, which is another process's
			bus, err := freePort()
			if err != nil {
				return nil, err
			}
			s.args = append(slices.Clone(of.args), "--cluster-port", strconv.Itoa(bus))
		}
		err = s.start()
		if err == nil {
			return s, nil
		}
		tail := s.logTail()
		if try == startTries || !bytes.Contains(tail, []byte("Address already in use")) {
			return nil, fmt.Errorf("%w; end of its log:\n%s", err, tail)
		}
		if err := os.Remove(s.logFile()); err != nil {
			return nil, err
		}
	}
}

// Addr returns host and port.
func (s *Server) Addr() string { return loopback(s.port) }

// URL returns the address as REDIS_URL has it, with database 0.
func (s *Server) URL() string { return "redis://" + s.Addr() + "/0" }

// Options returns fresh options with the address and nothing else, for the caller to add to.
func (s *Server) Options() *redis.UniversalOptions {
	return &redis.UniversalOptions{Addrs: []string{s.Addr()}}
}

// Client returns a client that the test's Cleanup closes.
func (s *Server) Client(tb testing.TB) redis.UniversalClient {
	tb.Helper()
	client := redis.NewUniversalClient(s.Options())
	tb.Cleanup(func() { _ = client.Close() })
	return client
}

// PID returns the process ID of the current run.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process.cmd.Process.Pid
}

// Stop ends the server in an orderly way (SIGTERM, after which an append-only file is complete) and waits until it is gone.
func (s *Server) Stop(tb testing.TB) {
	tb.Helper()
	s.refuseShared(tb)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.process.stop()
}

// Kill ends the server with SIGKILL and waits until it is gone.
func (s *Server) Kill(tb testing.TB) {
	tb.Helper()
	s.refuseShared(tb)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.process.kill()
}

// LoseTail cuts the end of the append-only file of a server that is not running, as a loss of power does to what was not on disk yet, up to where a
// transaction begins, and returns how many bytes it has cut: at least those asked for.
func (s *Server) LoseTail(tb testing.TB, atLeast int64) int64 {
	tb.Helper()
	file := s.appendOnlyFile(tb)
	content, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	size := int64(len(content))
	end := max(0, bytes.LastIndex(content[:max(0, size-atLeast)], []byte("*1\r\n$5\r\nMULTI\r\n")))
	truncate(tb, file, int64(end))
	return size - int64(end)
}

// LoseBytes is LoseTail wherever the cut may be. Within a transaction Redis 7.0 keeps the first half in the file, and executes it together with the
// transaction behind it at the start after the next.
func (s *Server) LoseBytes(tb testing.TB, n int64) {
	tb.Helper()
	file := s.appendOnlyFile(tb)
	about, err := os.Stat(file)
	if err != nil {
		tb.Fatal(err)
	}
	truncate(tb, file, about.Size()-n)
}

func truncate(tb testing.TB, file string, size int64) {
	tb.Helper()
	if err := os.Truncate(file, max(0, size)); err != nil {
		tb.Fatal(err)
	}
}

func (s *Server) appendOnlyFile(tb testing.TB) string {
	tb.Helper()
	s.refuseShared(tb)
	files, err := filepath.Glob(filepath.Join(s.dir, "appendonlydir", "*.incr.aof"))
	if err != nil || len(files) == 0 {
		tb.Fatalf("no append-only file in %s: %v", s.dir, err)
	}
	return slices.MaxFunc(files, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) }) // the highest number
}

// StartAgain starts a server that was stopped or killed, on its port and in its folder, and waits until it answers and has
// loaded what it had persisted.
func (s *Server) StartAgain(tb testing.TB) {
	tb.Helper()
	s.refuseShared(tb)
	if err := s.start(); err != nil {
		tb.Fatalf("start the redis-server again: %v; end of its log:\n%s", err, s.logTail())
	}
}

// Restart is Kill and StartAgain.
func (s *Server) Restart(tb testing.TB) {
	tb.Helper()
	s.refuseShared(tb)
	if err := s.restart(); err != nil {
		tb.Fatalf("restart the redis-server: %v; end of its log:\n%s", err, s.logTail())
	}
}

// Freeze stops the server with SIGSTOP: connections stay open, new ones are accepted by the kernel, nothing is answered.
func (s *Server) Freeze(tb testing.TB) {
	tb.Helper()
	s.refuseShared(tb)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.process.signal(syscall.SIGSTOP)
	pid := s.process.cmd.Process.Pid
	if err := s.process.poll(func() bool { return stopped(pid) }); err != nil {
		tb.Fatalf("freeze the redis-server: %v", err)
	}
}

// Thaw lets a frozen server go on, with what it was sent meanwhile first.
func (s *Server) Thaw(tb testing.TB) {
	tb.Helper()
	s.refuseShared(tb)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.process.signal(syscall.SIGCONT)
}

// Flush removes everything from the server, groups and scripts included.
func (s *Server) Flush(tb testing.TB) {
	tb.Helper()
	s.refuseShared(tb)
	client := redis.NewUniversalClient(s.Options())
	defer client.Close()
	ctx := context.Background()
	if err := errors.Join(client.FlushAll(ctx).Err(), client.ScriptFlush(ctx).Err()); err != nil {
		tb.Fatalf("flush the redis-server: %v", err)
	}
}

// refuseShared keeps one test from breaking those that run beside it.
func (s *Server) refuseShared(tb testing.TB) {
	tb.Helper()
	if s.shared {
		tb.Fatal("this redis-server is shared by all tests of the binary; one to break is redistest.Start")
	}
}

func (s *Server) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.startLocked()
}

func (s *Server) restart() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.process.kill()
	return s.startLocked()
}

func (s *Server) startLocked() error {
	if s.process != nil && s.process.running() {
		return errors.New("it is running already")
	}
	p, err := startProcess(s.binary, s.arguments(), s.Addr(), s.logFile())
	if err != nil {
		return err
	}
	s.process = p
	return nil
}

// end stops the server for good; nothing may be left of it when this returns.
func (s *Server) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.process.stop()
}

func (s *Server) arguments() []string {
	if s.command != nil {
		return s.command(s)
	}
	defaults := []string{
		"--bind", "127.0.0.1",
		"--port", strconv.Itoa(s.port),
		"--dir", s.dir,
		"--save", "",
		"--appendonly", "no",
		"--enable-debug-command", "yes",
	}
	return append(defaults, s.args...)
}

func (s *Server) logFile() string { return filepath.Join(s.dir, "redis.log") }

// logTail returns the last 4 KiB of what the server said.
func (s *Server) logTail() []byte {
	const tail = 4 << 10
	text, err := os.ReadFile(s.logFile())
	if err != nil {
		return []byte(err.Error())
	}
	if len(text) > tail {
		text = text[len(text)-tail:]
	}
	return text
}
