package redistest

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

const (
	chunkSize   = 32 << 10
	chunksAhead = 256 // per direction: what a delayed link holds before it stops reading
)

// Proxy is a network between a client and a server: TCP, every connection forwarded both ways, until told otherwise. Its
// methods may be called from any goroutine and take effect on the connections there are and those to come.
type Proxy struct {
	tb     testing.TB
	addr   string
	target string
	loops  sync.WaitGroup
	// closing is closed by close, for those that wait for anything else.
	closing chan struct{}

	mu       sync.Mutex
	listener net.Listener // nil while refusing
	links    map[*link]struct{}
	gate     chan struct{} // closed: open
	delay    time.Duration
	swallow  bool
	rate     int       // of replies, in bytes per second, over all connections; 0: without a bound
	free     time.Time // when what was sent by then has gone over the link
	closed   bool
}

// NewProxy listens on a free port and forwards to target (host:port). It ends in the test's Cleanup.
func NewProxy(tb testing.TB, target string) *Proxy {
	tb.Helper()
	p := &Proxy{
		tb: tb, target: target,
		closing: make(chan struct{}), links: map[*link]struct{}{}, gate: make(chan struct{}),
	}
	close(p.gate)
	p.addr = FreeAddr(tb)
	p.Refuse(false)
	tb.Cleanup(p.close)
	return p
}

// Addr returns host and port.
func (p *Proxy) Addr() string { return p.addr }

// URL returns the address as REDIS_URL has it, with database 0.
func (p *Proxy) URL() string { return "redis://" + p.addr + "/0" }

// Freeze makes the network a black hole: connections stay open, new ones are accepted, and nothing that is sent from now on
// arrives, in either direction; not the end of a connection either.
func (p *Proxy) Freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.gate:
		p.gate = make(chan struct{})
	default: // frozen already
	}
}

// Thaw lets everything arrive that was held back.
func (p *Proxy) Thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.gate:
	default:
		close(p.gate)
	}
}

// Limit bounds what comes from the server, over all connections, in bytes per second; 0 ends that.
func (p *Proxy) Limit(bytesPerSecond int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rate, p.free = bytesPerSecond, time.Time{}
}

// sent returns when n more bytes have gone over the link.
func (p *Proxy) sent(n int) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.rate == 0 {
		return now
	}
	if p.free.Before(now) {
		p.free = now
	}
	p.free = p.free.Add(time.Duration(n) * time.Second / time.Duration(p.rate))
	return p.free
}

// Delay makes each direction take d longer, a round trip 2 d. Throughput stays.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// DropReplies swallows what the server sends while it is on. A connection that missed a reply is out of step afterwards: its
// client has to give it up, as it does after a timeout.
func (p *Proxy) DropReplies(drop bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.swallow = drop
}

// Reset ends all connections with a RST, to both sides.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.reset()
	}
}

// Refuse makes new connections fail as if nobody listened, until it is called with false. Those there are stay.
func (p *Proxy) Refuse(refuse bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
	case refuse && p.listener != nil:
		_ = closeForAll(p.listener)
		p.listener = nil
	case !refuse && p.listener == nil:
		listener, err := net.Listen("tcp", p.addr)
		if err != nil {
			p.tb.Errorf("proxy: listen: %v", err)
			return
		}
		p.listener = listener
		p.loops.Go(func() { p.accept(listener) })
	}
}

func (p *Proxy) close() {
	p.mu.Lock()
	p.closed = true
	close(p.closing)
	if p.listener != nil {
		_ = p.listener.Close()
	}
	for l := range p.links {
		l.reset()
	}
	p.mu.Unlock()
	p.loops.Wait()
}

func (p *Proxy) accept(listener net.Listener) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		// In a goroutine of its own: a target that does not answer must not keep others from connecting.
		p.loops.Go(func() { p.serve(client.(*net.TCPConn)) })
	}
}

// serve runs one link until either side has ended.
func (p *Proxy) serve(client *net.TCPConn) {
	server, err := net.DialTimeout("tcp", p.target, patience)
	if err != nil {
		select {
		case <-p.currentGate(): // Nothing leaves a frozen network, bad news included.
		case <-p.closing:
		}
		_ = client.SetLinger(0) // A RST is the nearest thing to a refused connection that is left.
		_ = client.Close()
		return
	}
	l := &link{client: client, server: server.(*net.TCPConn), done: make(chan struct{})}
	if !p.add(l) {
		l.reset()
		return
	}
	var pumps sync.WaitGroup
	pumps.Go(func() { p.pump(l, l.server, l.client, false) })
	pumps.Go(func() { p.pump(l, l.client, l.server, true) })
	pumps.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.links, l)
}

// add reports false when the proxy was closed, or told to refuse, while the link was made: after Refuse and
// Reset nobody is left.
func (p *Proxy) add(l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.listener == nil {
		return false
	}
	p.links[l] = struct{}{}
	return true
}

// chunk is what one read brought, and when it is due on the other side.
type chunk struct {
	data []byte
	due  time.Time
}

// pump carries one direction. Reading goes on while chunks wait for their time, so that delay costs no throughput; the end of
// the connection travels behind the last chunk, as late as that and held back by Freeze like everything else.
func (p *Proxy) pump(l *link, dst, src *net.TCPConn, reply bool) {
	chunks := make(chan chunk, chunksAhead)
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(chunks)
		p.read(l, src, chunks)
	})
	for c := range chunks {
		if !l.awaitDue(c.due) || !l.awaitOpen(p.currentGate()) {
			break
		}
		if reply && p.swallows() {
			continue
		}
		if reply && !l.awaitDue(p.sent(len(c.data))) {
			break
		}
		if _, err := dst.Write(c.data); err != nil {
			break
		}
	}
	if l.awaitOpen(p.currentGate()) {
		l.close()
	}
	for range chunks { // Lets the reader end.
	}
	reader.Wait()
}

func (p *Proxy) read(l *link, src io.Reader, chunks chan<- chunk) {
	for {
		buffer := make([]byte, chunkSize)
		n, err := src.Read(buffer)
		if n > 0 {
			select {
			case chunks <- chunk{buffer[:n], time.Now().Add(p.latency())}:
			case <-l.done:
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (p *Proxy) latency() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.delay
}

func (p *Proxy) currentGate() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gate
}

func (p *Proxy) swallows() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.swallow
}

// link is one forwarded connection.
type link struct {
	client, server *net.TCPConn
	once           sync.Once
	done           chan struct{}
}

// awaitDue returns true when the time has come, false when the link has ended.
func (l *link) awaitDue(due time.Time) bool {
	wait := time.Until(due)
	if wait <= 0 {
		return true
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.done:
		return false
	}
}

// awaitOpen returns true when the gate is open, false when the link has ended.
func (l *link) awaitOpen(gate <-chan struct{}) bool {
	select {
	case <-gate:
		return true
	case <-l.done:
		return false
	}
}

func (l *link) close() {
	l.once.Do(func() {
		close(l.done)
		_ = l.client.Close()
		_ = l.server.Close()
	})
}

func (l *link) reset() {
	_ = l.client.SetLinger(0)
	_ = l.server.SetLinger(0)
	l.close()
}
