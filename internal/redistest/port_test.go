package redistest

import (
	"net"
	"testing"
)

// A port stays this process's while nobody listens on it: a server that is stopped, a proxy that refuses.
func TestPortIsGivenOutOnce(t *testing.T) {
	t.Parallel()
	given := map[int]bool{}
	for range 2 * blockSize {
		port, err := freePort()
		if err != nil {
			t.Fatal(err)
		}
		if given[port] {
			t.Fatalf("port %d was given out twice", port)
		}
		given[port] = true
		first := port - (port-firstPort)%blockSize
		if listener, err := net.Listen("tcp", loopback(first)); err == nil {
			_ = listener.Close()
			t.Fatalf("nothing claims the block of port %d: another process can take it", port)
		}
	}
}
