package redistest

import (
	"net"
	"os"
	"os/exec"
	"sync"
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

// A port that was given up is nobody's at once, though processes are being started, which have all that is open here until their exec.
func TestPortIsGivenUpWhileProcessesStart(t *testing.T) {
	t.Parallel()
	binary, err := findServer(os.Getenv, exec.LookPath)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var starting sync.WaitGroup
	for range 2 {
		starting.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					_ = exec.Command(binary, "--version").Run()
				}
			}
		})
	}
	addr := FreeAddr(t)
	for range 2000 {
		listener, err := net.Listen("tcp", addr)
		if err != nil {
			t.Errorf("it is taken: %v", err)
			break
		}
		_ = closeForAll(listener)
	}
	close(done)
	starting.Wait()
}
