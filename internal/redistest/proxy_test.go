package redistest

import (
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

// silence is what receive says when nothing came.
const silence = "silence"

func TestProxyForwards(t *testing.T) {
	t.Parallel()
	p := NewProxy(t, Shared(t).Addr())
	client := oneShot(t, p.Addr())
	key, value := Namespace(t), strings.Repeat("x", 1<<20)
	if err := client.Set(t.Context(), key, value, 0).Err(); err != nil {
		t.Fatal(err)
	}
	if got, err := client.Get(t.Context(), key).Result(); err != nil || got != value {
		t.Errorf("%d bytes came back, %v; want %d", len(got), err, len(value))
	}
}

func TestProxyFreezeHoldsEverythingBack(t *testing.T) {
	t.Parallel()
	s := Start(t)
	p := NewProxy(t, s.Addr())
	conn := connect(t, p.Addr())
	p.Freeze()
	send(t, conn, "PING\r\n")
	if got := hear(conn); got != silence {
		t.Errorf("through a frozen proxy came %q", got)
	}
	late := connect(t, p.Addr()) // Accepted: a black hole does not refuse.
	s.Kill(t)
	if got := hear(late); got != silence {
		t.Errorf("the end of the connection came through a frozen proxy: %q", got)
	}
	s.StartAgain(t)
	p.Thaw()
	if got := receive(late); got == silence {
		t.Error("nothing came after the thaw")
	}
	send(t, connect(t, p.Addr()), "PING\r\n")
}

func TestProxyThawDeliversWhatWasHeld(t *testing.T) {
	t.Parallel()
	p := NewProxy(t, Shared(t).Addr())
	conn := connect(t, p.Addr())
	p.Freeze()
	send(t, conn, "PING\r\n")
	if got := hear(conn); got != silence {
		t.Errorf("through a frozen proxy came %q", got)
	}
	p.Thaw()
	if got, want := receive(conn), "+PONG\r\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestProxyDelayCountsOncePerDirection(t *testing.T) {
	t.Parallel()
	const delay = 40 * time.Millisecond
	p := NewProxy(t, Shared(t).Addr())
	conn := connect(t, p.Addr())
	p.Delay(delay)
	start := time.Now()
	send(t, conn, "PING\r\n")
	if got, want := receive(conn), "+PONG\r\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if took := time.Since(start); took < 2*delay {
		t.Errorf("the round trip took %s, want at least %s", took, 2*delay)
	}
}

func TestProxyDropsReplies(t *testing.T) {
	t.Parallel()
	s := Shared(t)
	p := NewProxy(t, s.Addr())
	client, key := oneShot(t, p.Addr()), Namespace(t)
	if err := client.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	p.DropReplies(true)
	if err := client.Set(impatient(t), key, "1", 0).Err(); !timedOut(err) {
		t.Errorf("a command whose reply is dropped: %v, want a timeout", err)
	}
	if !eventually(t, func() bool { return has(t, s, key) }) {
		t.Error("the command did not reach the server")
	}
	p.DropReplies(false)
	if err := client.Ping(t.Context()).Err(); err != nil {
		t.Errorf("on a new connection: %v", err)
	}
}

func TestProxyReset(t *testing.T) {
	t.Parallel()
	p := NewProxy(t, Shared(t).Addr())
	conn := connect(t, p.Addr())
	send(t, conn, "PING\r\n")
	if got, want := receive(conn), "+PONG\r\n"; got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
	p.Reset()
	if got, want := receive(conn), syscall.ECONNRESET.Error(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := oneShot(t, p.Addr()).Ping(t.Context()).Err(); err != nil {
		t.Errorf("a new connection after the reset: %v", err)
	}
}

func TestProxyRefuses(t *testing.T) {
	t.Parallel()
	p := NewProxy(t, Shared(t).Addr())
	conn := connect(t, p.Addr())
	send(t, conn, "PING\r\n")
	if got, want := receive(conn), "+PONG\r\n"; got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
	p.Refuse(true)
	if err := dial(p.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial while refusing: %v, want refused", err)
	}
	send(t, conn, "PING\r\n")
	if got, want := receive(conn), "+PONG\r\n"; got != want {
		t.Errorf("on the connection that was there: got %q, want %q", got, want)
	}
	p.Refuse(false)
	if err := oneShot(t, p.Addr()).Ping(t.Context()).Err(); err != nil {
		t.Errorf("after it accepts again: %v", err)
	}
}

func TestProxyWithoutATarget(t *testing.T) {
	t.Parallel()
	s := Start(t)
	p := NewProxy(t, s.Addr())
	s.Stop(t)
	conn, err := net.Dial("tcp", p.Addr())
	if err != nil {
		return // Reset before the system had told us that it was accepted.
	}
	defer conn.Close()
	if got := receive(conn); got == silence {
		t.Error("the connection stayed open though nobody is behind it")
	}
}

func connect(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func send(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := conn.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

// receive returns what came first: text, or the text of the error that ended the connection.
func receive(conn net.Conn) string { return receiveWithin(conn, patience) }

// hear is receive for a connection on which nothing must come.
func hear(conn net.Conn) string { return receiveWithin(conn, impatience) }

func receiveWithin(conn net.Conn, patience time.Duration) string {
	buffer := make([]byte, 64)
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	n, err := conn.Read(buffer)
	var errno syscall.Errno
	switch {
	case err == nil:
		return string(buffer[:n])
	case timedOut(err):
		return silence
	case errors.As(err, &errno):
		return errno.Error()
	}
	return err.Error()
}
