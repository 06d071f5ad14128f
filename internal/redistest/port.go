package redistest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

const (
	firstPort = 20_000
	lastPort  = 32_000
)

// freePort returns a port of 127.0.0.1 that nobody listens on. It stays below the range from which systems take the local
// ports of outgoing connections (32768 on Linux, 49152 elsewhere): a server gives its port up while it is stopped, and must not
// find it taken by somebody's connection when it comes back.
func freePort() (int, error) {
	for range 200 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		listener, err := net.Listen("tcp", loopback(port))
		if err != nil {
			continue
		}
		return port, listener.Close()
	}
	return 0, fmt.Errorf("no free port between %d and %d", firstPort, lastPort)
}

func loopback(port int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}
