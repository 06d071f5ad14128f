package redistest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func TestMain(m *testing.M) { os.Exit(Run(m)) }

func TestSharedIsOneServerForAll(t *testing.T) {
	t.Parallel()
	first, second := Shared(t), Shared(t)
	if first != second {
		t.Errorf("two servers: %s and %s", first.Addr(), second.Addr())
	}
	if got, err := first.Client(t).Ping(t.Context()).Result(); err != nil || got != "PONG" {
		t.Errorf("ping: %q, %v", got, err)
	}
}

func TestSharedRefusesToBeBroken(t *testing.T) {
	t.Parallel()
	shared := Shared(t)
	for name, breakIt := range map[string]func(testing.TB){
		"stop":                shared.Stop,
		"kill":                shared.Kill,
		"start again":         shared.StartAgain,
		"restart":             shared.Restart,
		"freeze":              shared.Freeze,
		"thaw":                shared.Thaw,
		"flush":               shared.Flush,
		"restart over socket": func(tb testing.TB) { RestartOverSocket(tb, shared) },
	} {
		if got := fatal(t, breakIt); !strings.Contains(got, "shared by all tests") {
			t.Errorf("%s: fatal message %q, want one that says the server is shared", name, got)
		}
	}
}

func TestServerComesBackWithWhatItPersisted(t *testing.T) {
	t.Parallel()
	s := Start(t, "--appendonly", "yes", "--appendfsync", "always")
	pid := s.PID()
	set(t, s, "survivor")

	s.Kill(t)
	if err := dial(s.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial a killed server: %v, want refused", err)
	}
	s.StartAgain(t)
	if s.PID() == pid {
		t.Error("the process is the old one")
	}
	if !has(t, s, "survivor") {
		t.Error("the key is gone after SIGKILL, with an append-only file that is always synced")
	}

	s.Stop(t)
	if err := dial(s.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial a stopped server: %v, want refused", err)
	}
	s.Stop(t) // Stopping what is stopped is no error.
	s.StartAgain(t)
	if !has(t, s, "survivor") {
		t.Error("the key is gone after an orderly stop")
	}
}

func TestServerForgetsWithoutPersistence(t *testing.T) {
	t.Parallel()
	s := Start(t)
	set(t, s, "key")
	s.Restart(t)
	if has(t, s, "key") {
		t.Error("the key survived a restart without persistence")
	}
	set(t, s, "key")
	s.Flush(t)
	if has(t, s, "key") {
		t.Error("the key survived a flush")
	}
}

func TestFrozenServerAnswersWhenThawed(t *testing.T) {
	t.Parallel()
	s := Start(t)
	client := oneShot(t, s.Addr())
	set(t, s, "key")
	if err := client.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	s.Freeze(t)
	if err := client.Ping(impatient(t)).Err(); !timedOut(err) {
		t.Errorf("ping a frozen server: %v, want a timeout", err)
	}
	s.Thaw(t)
	if !has(t, s, "key") {
		t.Error("the key is gone after a thaw")
	}
	s.Freeze(t)
	s.Stop(t) // Must not hang on a frozen server.
}

func TestStartSaysWhyTheServerDidNot(t *testing.T) {
	t.Parallel()
	got := fatal(t, func(tb testing.TB) { Start(tb, "--no-such-setting", "1") })
	for _, want := range []string{"the process has ended", "no-such-setting"} {
		if !strings.Contains(got, want) {
			t.Errorf("message %q, want %q in it", got, want)
		}
	}
}

func TestStartedTwice(t *testing.T) {
	t.Parallel()
	s := Start(t)
	if got := fatal(t, s.StartAgain); !strings.Contains(got, "running already") {
		t.Errorf("message %q, want one that says it is running", got)
	}
}

func TestFindServer(t *testing.T) {
	t.Parallel()
	onPath := func(names ...string) func(string) (string, error) {
		return func(name string) (string, error) {
			for _, n := range names {
				if n == name {
					return "/bin/" + n, nil
				}
			}
			return "", exec.ErrNotFound
		}
	}
	for _, test := range []struct {
		name, variable string
		lookPath       func(string) (string, error)
		want, wantErr  string
	}{
		{"redis", "", onPath("redis-server", "valkey-server"), "/bin/redis-server", ""},
		{"valkey", "", onPath("valkey-server"), "/bin/valkey-server", ""},
		{"variable wins", "mine", onPath("redis-server", "mine"), "/bin/mine", ""},
		{"variable that names nothing", "mine", onPath("redis-server"), "", binaryVariable},
		{"none", "", onPath(), "", "make deps"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := findServer(func(string) string { return test.variable }, test.lookPath)
			if got != test.want {
				t.Errorf("binary %q, want %q", got, test.want)
			}
			if test.wantErr == "" && err != nil || test.wantErr != "" && (err == nil || !strings.Contains(err.Error(), test.wantErr)) {
				t.Errorf("error %v, want %q in it", err, test.wantErr)
			}
		})
	}
}

func TestNamespace(t *testing.T) {
	t.Parallel()
	rule := regexp.MustCompile(`^[A-Za-z0-9._-]{1,40}$`)
	seen := map[string]bool{}
	for _, name := range []string{"short", "a/very long name with ümläuts, blanks and {braces} in it", "…"} {
		t.Run(name, func(t *testing.T) {
			for range 100 {
				got := Namespace(t)
				if !rule.MatchString(got) {
					t.Errorf("namespace %q does not match %s", got, rule)
				}
				if seen[got] {
					t.Errorf("namespace %q twice", got)
				}
				seen[got] = true
			}
		})
	}
}

// fatalTB records the message of Fatal and ends the goroutine, as a test does.
type fatalTB struct {
	testing.TB
	message string
}

func (f *fatalTB) Fatal(args ...any) {
	for _, arg := range args {
		f.message += arg.(string)
	}
	runtime.Goexit()
}

func (f *fatalTB) Fatalf(format string, args ...any) { f.Fatal(fmt.Sprintf(format, args...)) }

// fatal returns what fn fails the test with.
func fatal(t *testing.T, fn func(testing.TB)) string {
	t.Helper()
	tb := &fatalTB{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn(tb)
	}()
	<-done
	return tb.message
}

func set(t *testing.T, s *Server, key string) {
	t.Helper()
	if err := s.Client(t).Set(t.Context(), key, "1", 0).Err(); err != nil {
		t.Fatal(err)
	}
}

func has(t *testing.T, s *Server, key string) bool {
	t.Helper()
	n, err := s.Client(t).Exists(t.Context(), key).Result()
	if err != nil {
		t.Fatal(err)
	}
	return n == 1
}

// impatience is how long a test listens for an answer that must not come.
const impatience = 150 * time.Millisecond

// oneShot is a client that never tries again, so that a test sees what one command met.
func oneShot(t *testing.T, addr string) *redis.Client {
	client := redis.NewClient(&redis.Options{
		Addr: addr, MaxRetries: -1, PoolSize: 1, ContextTimeoutEnabled: true, ReadTimeout: patience,
	})
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// impatient is the ctx of a command whose answer must not come.
func impatient(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), impatience)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits for a fact that somebody else brings about.
func eventually(t *testing.T, fact func() bool) bool {
	t.Helper()
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for deadline := time.Now().Add(patience); !fact(); <-ticker.C {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

func timedOut(err error) bool {
	var timeout net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}

func dial(addr string) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	return conn.Close()
}
