package redisstream

import (
	"context"
	"time"
)

// Marked reports whether the group has marked an event of the stream as done. The key is short text that stands for the event.
func (c *Client) Marked(ctx context.Context, stream, group, key string) (bool, error) {
	n, err := c.admin.Exists(ctx, c.onceKey(stream, group, key)).Result()
	return n > 0, err
}

// Mark marks an event of the stream as done by the group. The server forgets it after ttl.
func (c *Client) Mark(ctx context.Context, stream, group, key string, ttl time.Duration) error {
	return c.admin.Set(ctx, c.onceKey(stream, group, key), "", ttl).Err()
}
