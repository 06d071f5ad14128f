package pipeline

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// greeter accepts connections, says something, and closes them, as Redis does where it lets nobody in.
func greeter(t *testing.T, text string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte(text))
			_ = conn.Close()
		}
	}()
	return listener.Addr().String()
}

// A server in protected mode says why it lets nobody in, and closes the connection. The text is that of Redis 7.0.
func TestP24ProtectedModeIsNamed(t *testing.T) {
	t.Parallel()
	addr := greeter(t, "-DENIED Redis is running in protected mode because protected mode is enabled and no password is set for the default user. In this mode connections are only "+
		"accepted from the loopback interface. If you want to connect from external computers to Redis you may adopt one of the following solutions: 1) Just disable protected mode\r\n")
	for range 5 { // whether the client reads or writes first is chance
		_, err := Open(t.Context(), Config{Redis: &redis.UniversalOptions{Addrs: []string{addr}}})
		if !errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), "protected mode") || !strings.Contains(err.Error(), "requirepass") {
			t.Fatalf("got %v", err)
		}
	}
}

// One that has too many clients is away, and says so.
func TestP24TooManyClientsAreNamed(t *testing.T) {
	t.Parallel()
	addr := greeter(t, "-ERR max number of clients reached\r\n")
	b := openBus(t, Config{Redis: &redis.UniversalOptions{Addrs: []string{addr}}})
	if h := b.Health(t.Context()); h.State != StateUnavailable || !strings.Contains(h.Redis.LastError, "max number of clients") {
		t.Errorf("%v: %s", h.State, h.Redis.LastError)
	}
}
