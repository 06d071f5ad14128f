package main

import (
	"bufio"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// echo answers every connection with what it sends.
func echo(t *testing.T) string {
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
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	return listener.Addr().String()
}

func throughProxy(t *testing.T, rtt time.Duration) func() net.Conn {
	t.Helper()
	p, err := startProxy(echo(t), rtt, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	return func() net.Conn {
		conn, err := net.Dial("tcp", p.addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		return conn
	}
}

func TestProxyAddsItsRoundTrip(t *testing.T) {
	t.Parallel()
	const rtt = 5 * time.Millisecond
	conn := throughProxy(t, rtt)()
	trips := make([]time.Duration, 50)
	answer := make([]byte, 1)
	for i := range trips {
		begin := time.Now()
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, answer); err != nil {
			t.Fatal(err)
		}
		trips[i] = time.Since(begin)
	}
	if fastest := slices.Min(trips); fastest < rtt {
		t.Errorf("got a round trip of %s, want at least %s", fastest, rtt)
	}
	slices.Sort(trips)
	if typical := trips[len(trips)/2]; typical > 3*rtt { // a busy machine is late, but not always
		t.Errorf("got a typical round trip of %s, want about %s", typical, rtt)
	}
}

// TestProxyIsNoBrake sends many packets at once: each may be late by a round trip, all together must not be late by many.
func TestProxyIsNoBrake(t *testing.T) {
	t.Parallel()
	const rtt, packets, conns = 20 * time.Millisecond, 200, 8
	dial := throughProxy(t, rtt)
	begin := time.Now()
	var sending sync.WaitGroup
	for range conns {
		conn := dial()
		sending.Go(func() {
			for i := range packets {
				if _, err := conn.Write([]byte{byte(i), '\n'}); err != nil {
					t.Error(err)
					return
				}
			}
		})
		sending.Go(func() {
			lines := bufio.NewReader(conn)
			for i := range packets {
				line := make([]byte, 2)
				if _, err := io.ReadFull(lines, line); err != nil || line[0] != byte(i) {
					t.Errorf("packet %d: got %q, %v, want them in order", i, line, err)
					return
				}
			}
		})
	}
	sending.Wait()
	if took := time.Since(begin); took < rtt || took > packets*rtt/4 {
		t.Errorf("%d packets took %s, want about one round trip of %s", packets, took, rtt)
	}
}

func TestProxyPassesTheEndOn(t *testing.T) {
	t.Parallel()
	conn := throughProxy(t, time.Millisecond)()
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(conn); len(rest) > 0 || err != nil {
		t.Errorf("got %q, %v, want the end of the connection", rest, err)
	}
}
