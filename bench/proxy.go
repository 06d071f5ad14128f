package main

import (
	"fmt"
	"net"
	"sync"
	"time"
)

// proxy is a network with a round-trip time: every connection is forwarded, and what passes arrives later by half of it, in either
// direction. It is a delay line and no brake: what comes in while something waits is already on its way.
type proxy struct {
	listener net.Listener
	target   string
	oneWay   time.Duration
	loops    sync.WaitGroup

	mu     sync.Mutex // guards what follows
	conns  map[net.Conn]struct{}
	closed bool
}

const (
	segmentSize   = 64 << 10
	segmentsAhead = 1024 // per direction: what is under way before the proxy stops to read
	// together is how much earlier than due a segment may be sent along with the one before it: arming a timer takes about as long.
	together = 10 * time.Microsecond
)

// startProxy starts a proxy. Own is what it takes in one direction by itself, waking up and copying, and is taken off the delay.
func startProxy(target string, rtt, own time.Duration) (*proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start the proxy: %w", err)
	}
	p := &proxy{listener: listener, target: target, oneWay: max(0, rtt/2-own), conns: map[net.Conn]struct{}{}}
	p.loops.Go(p.acceptLoop)
	return p, nil
}

func (p *proxy) addr() string { return p.listener.Addr().String() }

// close ends all connections and returns when nothing of the proxy runs any more.
func (p *proxy) close() {
	p.mu.Lock()
	p.closed = true
	_ = p.listener.Close()
	for conn := range p.conns {
		_ = conn.Close()
	}
	p.mu.Unlock()
	p.loops.Wait()
}

func (p *proxy) acceptLoop() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.loops.Go(func() { p.forward(client) })
	}
}

// forward carries one connection both ways until both have ended.
func (p *proxy) forward(client net.Conn) {
	defer p.forget(client)
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer p.forget(server)
	if !p.remember(client, server) {
		return
	}
	var ways sync.WaitGroup
	for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
		ways.Go(func() {
			p.carry(way[0], way[1])
			_, _ = client.Close(), server.Close() // the other way has to end as well
		})
	}
	ways.Wait()
}

func (p *proxy) remember(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	for _, conn := range conns {
		p.conns[conn] = struct{}{}
	}
	return true
}

func (p *proxy) forget(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, conn)
	_ = conn.Close()
}

// segment is what one read brought, and when it is due on the other side.
type segment struct {
	buffer *[segmentSize]byte
	n      int
	due    time.Time
}

var buffers = sync.Pool{New: func() any { return new([segmentSize]byte) }}

// carry forwards one direction until its end, which travels like everything else, or until the other side is gone.
func (p *proxy) carry(from, to net.Conn) {
	alarm, err := newAlarm()
	if err != nil {
		return
	}
	defer alarm.close()
	line := make(chan segment, segmentsAhead)
	p.loops.Go(func() {
		defer close(line)
		p.read(from, line)
	})
	defer func() {
		_ = from.Close() // only after an error is there anything left to read
		for s := range line {
			buffers.Put(s.buffer)
		}
	}()
	for s := range line {
		if wait := time.Until(s.due); wait > together {
			if err := alarm.wait(wait); err != nil {
				return
			}
		}
		_, err := to.Write(s.buffer[:s.n])
		buffers.Put(s.buffer)
		if err != nil {
			return
		}
	}
}

func (p *proxy) read(from net.Conn, line chan<- segment) {
	for {
		buffer := buffers.Get().(*[segmentSize]byte)
		n, err := from.Read(buffer[:])
		if n > 0 {
			line <- segment{buffer, n, time.Now().Add(p.oneWay)}
		} else {
			buffers.Put(buffer)
		}
		if err != nil {
			return
		}
	}
}
