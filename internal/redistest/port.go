package redistest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"syscall"
	"testing"
)

// Ports are given out in blocks. They stay below the range from which systems take the local ports of outgoing connections
// (32768 on Linux, 49152 elsewhere): a server gives its port up while it is stopped, and must not find it taken by somebody's
// connection when it comes back.
const (
	firstPort = 20_000
	blocks    = 120
	blockSize = 100 // the port that claims the block included
)

var ports reservedPorts

// reservedPorts are ports that no other test process takes, even while nobody listens on them: a process claims a block by
// listening on its first port until it ends, and gives each of the others out once.
type reservedPorts struct {
	mu     sync.Mutex
	claims []net.Listener
	next   int
	end    int // of the block under way
}

// FreeAddr returns host and port for a server that the test starts itself, or starts again later.
func FreeAddr(tb testing.TB) string {
	tb.Helper()
	port, err := freePort()
	if err != nil {
		tb.Fatal(err)
	}
	return loopback(port)
}

// closeForAll closes a listener for whoever has it open: a process that is just being started has all that this one has, until its exec. So
// long the port would be taken, and connections to it accepted.
func closeForAll(listener net.Listener) error {
	if conn, err := listener.(*net.TCPListener).SyscallConn(); err == nil {
		_ = conn.Control(func(fd uintptr) { _ = syscall.Shutdown(int(fd), syscall.SHUT_RD) }) // the socket, not this descriptor of it
	}
	return listener.Close()
}

// freePort returns a port of 127.0.0.1 that nobody listens on and that is nobody else's as long as this process lives.
func freePort() (int, error) {
	ports.mu.Lock()
	defer ports.mu.Unlock()
	for {
		if ports.next == ports.end {
			if err := ports.claim(); err != nil {
				return 0, err
			}
		}
		port := ports.next
		ports.next++
		listener, err := net.Listen("tcp", loopback(port))
		if err != nil {
			continue // A server that outlived its test process, or something else of this machine.
		}
		return port, closeForAll(listener)
	}
}

// claim takes the next block, from a random one on.
func (p *reservedPorts) claim() error {
	start := rand.IntN(blocks)
	for n := range blocks {
		first := firstPort + (start+n)%blocks*blockSize
		listener, err := net.Listen("tcp", loopback(first))
		if err != nil {
			continue
		}
		p.claims = append(p.claims, listener)
		p.next, p.end = first+1, first+blockSize
		return nil
	}
	return fmt.Errorf("no free block of %d ports between %d and %d: other test processes hold them all", blockSize, firstPort, firstPort+blocks*blockSize)
}

func loopback(port int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}
