package redisstream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Ping asks the server whether it would take an append, and how long that takes. A replica, a server
// that is loading, one that has no memory left, and a user without the right to append are answered
// as an append would be. It is asked over the connections over which appends go.
func (c *Client) Ping(ctx context.Context) (time.Duration, error) {
	latency, err := c.probe(ctx, c.probeKey(0))
	if isKeyRefused(err) { // the user has the keys of some streams, and not that one
		start := time.Now()
		err = c.appends.SRem(ctx, c.registryKey(), "").Err()
		latency = time.Since(start)
	}
	return latency, c.explained(ctx, err)
}

func (c *Client) probe(ctx context.Context, key string) (time.Duration, error) {
	start := time.Now()
	err := probeScript.Run(ctx, c.appends, []string{key}).Err()
	if errors.Is(err, redis.Nil) { // it answers nothing
		err = nil
	}
	return time.Since(start), err
}

// isKeyRefused reports whether a user lacks the right to a key, and not to a command.
func isKeyRefused(err error) bool {
	return err != nil && Classify(err) == Denied && strings.Contains(err.Error(), "access") && strings.Contains(err.Error(), "key")
}

// IsRightsRefused reports whether a server refuses since the user lacks a right.
func IsRightsRefused(err error) bool { return redis.HasErrorPrefix(err, "NOPERM") }

// PingRead asks the server whether it would answer a reader.
func (c *Client) PingRead(ctx context.Context) (time.Duration, error) {
	start := time.Now()
	err := c.admin.Exists(ctx, c.registryKey()).Err()
	return time.Since(start), c.explained(ctx, err)
}

// ErrTooOld: the server is older than 7.0, the first version that knows what the scripts are written
// with.
var ErrTooOld = errors.New("redis 7.0 or newer is needed")

// explained names the version of a server that can't read a script, and why one lets nobody in.
func (c *Client) explained(ctx context.Context, err error) error {
	if err = c.greeted(ctx, err); err == nil || !strings.Contains(err.Error(), scriptUnknown) {
		return err
	}
	version := ""
	if text, infoErr := c.appends.Info(ctx, "server").Result(); infoErr == nil {
		version = ", this is " + serverVersion(infoFields(text))
	}
	return fmt.Errorf("%w%s: %w", ErrTooOld, version, err)
}

// scriptUnknown is what a server says of a script whose first line it does not understand.
const scriptUnknown = "compiling script"
