package redisstream

import (
	"context"
	"errors"

	"github.com/redis/go-redis/v9"
)

// ServerID returns the ID that is kept in the server, by which it is known under any address, and gives it this one where it has none.
// Without one to give it only reads. The result is empty where there is none, or the user may not see it.
func (c *Client) ServerID(ctx context.Context, give string) (string, error) {
	id, err := c.admin.HGet(ctx, c.identityKey(), "id").Result()
	switch {
	case isKeyRefused(err): // the user has the keys of some streams, and not that one
		return "", nil
	case !errors.Is(err, redis.Nil):
		return id, err
	case give == "":
		return "", nil
	}
	return identityScript.Run(ctx, c.admin, []string{c.identityKey()}, give).Text()
}
