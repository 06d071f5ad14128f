package redistest

import (
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// shared is the one server of this test binary.
var shared struct {
	mu      sync.Mutex
	running bool // Run is there to stop it
	server  *Server
	dir     string
	err     error // of the first start: every further test fails at once and with the same words
}

// Shared returns the server that the tests of this binary share, and starts it for the first of them. It is for tests that
// keep to their own Namespace and change no setting of the server.
func Shared(tb testing.TB) *Server {
	tb.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if !shared.running {
		tb.Fatal("redistest.Shared needs a TestMain that ends in os.Exit(redistest.Run(m)), or nobody stops the server")
	}
	if shared.server == nil && shared.err == nil {
		startShared()
	}
	if shared.err != nil {
		tb.Fatalf("start the shared redis-server: %v", shared.err)
	}
	return shared.server
}

func startShared() {
	shared.dir, shared.err = os.MkdirTemp("", "redistest-")
	if shared.err != nil {
		return
	}
	shared.server, shared.err = newServer(shared.dir, nil)
	if shared.err == nil {
		shared.server.shared = true
	}
}

// Run is the body of TestMain: it runs the tests, stops the shared server and removes its folder, then fails the binary when
// goroutines are left over. The options go to goleak and name the leaks of others. It returns the exit code.
//
// Run is also the other end of RestartOverSocket: a test binary that is started with that command restarts a server of
// another one and runs no test.
func Run(m *testing.M, options ...goleak.Option) int {
	if addr, ok := restartArgument(os.Args); ok {
		return askForRestart(addr)
	}
	shared.mu.Lock()
	shared.running = true
	shared.mu.Unlock()

	code := m.Run()
	if err := stopShared(); err != nil {
		fmt.Fprintln(os.Stderr, "redistest:", err)
		code = max(code, 1)
	}
	if code != 0 {
		return code // Goroutines of tests that failed halfway would only hide why they failed.
	}
	if err := findLeaks(options); err != nil {
		fmt.Fprintln(os.Stderr, "redistest: goroutines are left after the tests:", err)
		return 1
	}
	return 0
}

// leakPatience is how long a goroutine may take to notice that it is over: the pool of go-redis looks once a second whether it can dial
// again, also after it was closed.
const leakPatience = 3 * time.Second

func findLeaks(options []goleak.Option) error {
	deadline := time.Now().Add(leakPatience)
	for {
		err := goleak.Find(options...) // it waits for a while by itself
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

func stopShared() error {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.server != nil {
		shared.server.end()
	}
	shared.server, shared.running = nil, false
	if shared.dir == "" {
		return nil
	}
	if err := os.RemoveAll(shared.dir); err != nil {
		return fmt.Errorf("remove the shared server's folder: %w", err)
	}
	return nil
}
