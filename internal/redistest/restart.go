package redistest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// restartFlag makes a test binary the client of RestartOverSocket. It is no flag of package flag: Run sees it before flags are
// parsed, and the address is behind the equals sign.
const restartFlag = "-redistest.restart="

// RestartOverSocket returns a command that kills the server with SIGKILL, starts it again and exits with 0 once it answers,
// for a suite that takes a command (Watermill's Features.RestartServiceCommand). The command is this test binary itself, whose
// Run asks this process over a socket of 127.0.0.1; it works until the test's Cleanup.
//
// What the server has not persisted is lost. Start it with --appendonly yes --appendfsync always where that matters.
func RestartOverSocket(tb testing.TB, s *Server) (command []string) {
	tb.Helper()
	s.refuseShared(tb)
	self, err := os.Executable()
	if err != nil {
		tb.Fatalf("find the test binary: %v", err)
	}
	listener, err := net.Listen("tcp", loopback(0))
	if err != nil {
		tb.Fatalf("listen for restarts: %v", err)
	}
	var served sync.WaitGroup
	served.Go(func() { serveRestarts(listener, s) })
	tb.Cleanup(func() {
		_ = listener.Close()
		served.Wait()
	})
	return []string{self, restartFlag + listener.Addr().String()}
}

// serveRestarts does one restart per connection, one after the other, until the listener is closed.
func serveRestarts(listener net.Listener, s *Server) {
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // The client sees its connection fail and says so.
		}
		answer := "ok"
		if err := s.restart(); err != nil {
			answer = strings.ReplaceAll(err.Error(), "\n", "; ")
		}
		fmt.Fprintln(conn, answer)
		_ = conn.Close()
	}
}

func restartArgument(args []string) (addr string, ok bool) {
	if len(args) != 2 {
		return "", false
	}
	return strings.CutPrefix(args[1], restartFlag)
}

// askForRestart is what the command does. It returns the exit code.
func askForRestart(addr string) int {
	answer, err := requestRestart(addr)
	if err != nil {
		answer = err.Error()
	}
	if answer != "ok" {
		fmt.Fprintln(os.Stderr, "redistest: restart:", answer)
		return 1
	}
	return 0
}

func requestRestart(addr string) (answer string, err error) {
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	// Stopping and starting may each take the whole patience.
	if err := conn.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if errors.Is(err, io.EOF) {
		return "", errors.New("the test binary ended meanwhile")
	}
	return strings.TrimSpace(line), err
}
