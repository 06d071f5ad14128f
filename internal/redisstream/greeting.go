package redisstream

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// greetingTimeout is how long a server may take to say why it takes nobody in.
const greetingTimeout = 300 * time.Millisecond

// greeted is why a server closes connections as soon as they are made: it says so before it is asked (protected mode, too many clients), and that is lost
// with the connection where the client writes first.
func (c *Client) greeted(ctx context.Context, err error) error {
	if c.greet == nil || !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, greetingTimeout)
	defer cancel()
	conn, dialErr := c.greet(ctx)
	if dialErr != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(greetingTimeout))
	line, _ := bufio.NewReader(io.LimitReader(conn, 4096)).ReadString('\n')
	text, refuses := strings.CutPrefix(strings.TrimSpace(line), "-")
	if !refuses {
		return err
	}
	text, _, _ = strings.Cut(text, " If you want ") // what Redis suggests for protected mode is a page
	return greeting(text)
}

// greeting is what a server says before it closes a connection.
type greeting string

func (g greeting) Error() string { return string(g) }

// RedisError makes it a reply of the server.
func (greeting) RedisError() {}

// greeter returns how a server is dialled to hear what it says first. Nil where it is not one server, or speaks TLS, where the client is first.
func greeter(o *redis.UniversalOptions) func(ctx context.Context) (net.Conn, error) {
	if len(o.Addrs) != 1 || o.MasterName != "" || o.TLSConfig != nil {
		return nil
	}
	network, dial := "tcp", o.Dialer
	if strings.HasPrefix(o.Addrs[0], "/") {
		network = "unix"
	}
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	return func(ctx context.Context) (net.Conn, error) { return dial(ctx, network, o.Addrs[0]) }
}
