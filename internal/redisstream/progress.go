package redisstream

import (
	"context"
	"net"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// A time-out of go-redis bounds a whole answer, however large it is: over a slow link a large one would
// never arrive, and be asked for again and again. So a connection takes a deadline as the time within
// which something has to happen: a read or a write that makes progress gets the same time once more.

// enoughProgress is how many bytes count as progress. A link that is slower than that within a time-out
// (4 KiB in 3 s) counts as dead.
const enoughProgress = 4 << 10

// progressDialer returns a dialer whose connections do so.
func progressDialer(o *redis.UniversalOptions) func(context.Context, string, string) (net.Conn, error) {
	dial := o.Dialer
	if dial == nil {
		dial = redis.NewDialer(&redis.Options{DialTimeout: o.DialTimeout, TLSConfig: o.TLSConfig})
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		p := &progressConn{Conn: conn}
		if s, ok := conn.(syscall.Conn); ok {
			return &rawProgressConn{p, s}, nil // go-redis looks there whether an idle connection is dead
		}
		return p, nil
	}
}

type progressConn struct {
	net.Conn
	reading, writing progress
}

type rawProgressConn struct {
	*progressConn
	raw syscall.Conn
}

func (c *rawProgressConn) SyscallConn() (syscall.RawConn, error) { return c.raw.SyscallConn() }

// progress is what is known of one direction. It needs no lock: a connection is used by one caller at a
// time.
type progress struct {
	allowed time.Duration // from a deadline that was set until then; 0: there is none
	bytes   int           // since the deadline was set
}

func (p *progress) set(deadline time.Time) {
	p.bytes, p.allowed = 0, 0
	if !deadline.IsZero() {
		p.allowed = time.Until(deadline)
	}
}

// made notes progress, and sets the deadline anew where it is enough.
func (p *progress) made(n int, set func(time.Time) error) {
	if p.bytes += n; p.bytes < enoughProgress || p.allowed <= 0 {
		return
	}
	p.bytes = 0
	_ = set(time.Now().Add(p.allowed)) // the next read or write says what is wrong
}

func (c *progressConn) SetDeadline(t time.Time) error {
	c.reading.set(t)
	c.writing.set(t)
	return c.Conn.SetDeadline(t)
}

func (c *progressConn) SetReadDeadline(t time.Time) error {
	c.reading.set(t)
	return c.Conn.SetReadDeadline(t)
}

func (c *progressConn) SetWriteDeadline(t time.Time) error {
	c.writing.set(t)
	return c.Conn.SetWriteDeadline(t)
}

func (c *progressConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.reading.made(n, c.Conn.SetReadDeadline)
	return n, err
}

// writeAtOnce is how much is written before progress is looked at.
const writeAtOnce = 256 << 10

func (c *progressConn) Write(p []byte) (int, error) {
	written := 0
	for {
		n, err := c.Conn.Write(p[:min(len(p), writeAtOnce)])
		written += n
		p = p[n:]
		if err != nil || len(p) == 0 {
			return written, err
		}
		c.writing.made(n, c.Conn.SetWriteDeadline)
	}
}
