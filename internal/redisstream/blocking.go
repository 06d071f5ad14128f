package redisstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// go-redis does not end a blocked read when its ctx does (RELIABILITY F06). So a blocking read runs on a connection whose
// CLIENT ID is known, and the end of ctx sends CLIENT UNBLOCK for it. What the server had sent by then is still returned.
//
// A user without the right to CLIENT reads all the same, but waits for a short time only, again and
// again. To close the connection instead would lose what the server hands out at that moment: it
// would be pending with a consumer that has left.

// blockingConn is a connection that blocking reads use one after the other.
type blockingConn struct {
	conn   *redis.Conn
	id     int64 // for CLIENT UNBLOCK; 0: it may not be used
	buffer *replyBuffer
	used   time.Time // last
}

// blockingConns are those that no read uses now.
type blockingConns struct {
	mu   sync.Mutex
	free []blockingConn
}

func (f *blockingConns) pop() (blockingConn, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	last := len(f.free) - 1
	if last < 0 {
		return blockingConn{}, false
	}
	conn := f.free[last]
	f.free = f.free[:last]
	return conn, true
}

// push takes a connection back, and closes the one that has been used least if that is long ago.
func (f *blockingConns) push(conn blockingConn) {
	conn.used = time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.free) > 0 && conn.used.Sub(f.free[0].used) > blockingIdle {
		_ = f.free[0].conn.Close()
		f.free = slices.Delete(f.free, 0, 1)
	}
	f.free = append(f.free, conn)
}

// close gives the connections back to their pool.
func (f *blockingConns) close() {
	for {
		conn, ok := f.pop()
		if !ok {
			return
		}
		_ = conn.conn.Close()
	}
}

// blockingIdle is how long a connection is kept that no read uses.
const blockingIdle = 5 * time.Second

// maxBlockAlone is the longest that a read waits which nothing can end before its time.
const maxBlockAlone = 250 * time.Millisecond

// readBlocking runs a blocking read, of which command is what comes before BLOCK and streams what
// comes behind it, and returns its raw reply. When ctx ends it returns within about one round trip,
// or within maxBlockAlone where the user has no right to CLIENT.
func (c *Client) readBlocking(
	ctx context.Context, block time.Duration, command, streams []any,
) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	single, ok := c.blocking.(*redis.Client)
	if !ok {
		// Cluster: a stop waits for up to MaxBlock.
		return raw(ctx, c.blocking, withBlock(command, block, streams)...)
	}
	conn, ok := c.idle.pop()
	if !ok {
		var err error
		if conn, err = dialBlocking(ctx, single); err != nil {
			return "", err
		}
	}
	returned := make(chan struct{})
	stop := func() bool { return true }
	if conn.id == 0 {
		block = min(block, maxBlockAlone)
	} else {
		stop = context.AfterFunc(ctx, func() { c.unblock(conn.id, returned) })
	}
	args := withBlock(command, block, streams)
	err := conn.conn.Process(context.WithoutCancel(ctx), redis.NewRawWriteToCmd(context.WithoutCancel(ctx), conn.buffer, args...))
	close(returned)
	stop()
	if err != nil {
		_ = conn.conn.Close() // what it may still have to say would be taken for the next reply
		var network net.Error
		if errors.As(err, &network) && network.Timeout() && ctx.Err() == nil {
			err = fmt.Errorf("%w: %w", ErrSilent, err)
		}
		return "", err
	}
	text := conn.buffer.take()
	c.idle.push(conn)
	return text, nil
}

// withBlock returns a read that waits for up to block.
func withBlock(command []any, block time.Duration, streams []any) []any {
	return append(append(command, "BLOCK", blockMillis(block)), streams...)
}

// dialBlocking makes a connection for blocking reads and finds out whether they can be ended.
func dialBlocking(ctx context.Context, client *redis.Client) (blockingConn, error) {
	conn := client.Conn()
	var id *redis.IntCmd
	_, err := conn.Pipelined(ctx, func(p redis.Pipeliner) error {
		id = p.ClientID(ctx)
		p.Do(ctx, "CLIENT", "UNBLOCK", 0) // nobody has this ID: asks for the right alone
		return nil
	})
	var refused redis.Error
	switch {
	case err == nil:
		return blockingConn{conn: conn, id: id.Val(), buffer: new(replyBuffer)}, nil
	case errors.As(err, &refused) && Classify(err) != Away:
		return blockingConn{conn: conn, buffer: new(replyBuffer)}, nil
	}
	_ = conn.Close()
	return blockingConn{}, err
}

// unblock ends a blocked read. It asks again until the read has returned, since the first time may come before the
// server has got the read at all.
func (c *Client) unblock(id int64, returned <-chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), MaxBlock)
	defer cancel()
	for {
		// The read returns in any case, after MaxBlock.
		_ = c.beats.Do(ctx, "CLIENT", "UNBLOCK", strconv.FormatInt(id, 10)).Err()
		select {
		case <-returned:
			return
		case <-ctx.Done():
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}
