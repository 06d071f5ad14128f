package redisstream

import (
	"context"
	"time"
)

const (
	// claimHashes is how many hashes the idempotency keys of a namespace are spread over. Every version must use the same number.
	claimHashes = 16
	// claimsBound is how many keys each of them remembers. Beyond it old ones go early, about 1,000,000 of all: what they were used for is not known
	// any more to a call for another stream. The streams that they were used for remember them by themselves.
	claimsBound = 1_000_000 / claimHashes
)

// ClaimShard returns the shard that remembers what a key is used for.
func (c *Client) ClaimShard(key string) Shard { return c.shardOf(c.claimsKey(key)) }

// Claim remembers for what an idempotency key is used, for a time, unless it is used already, and returns what it is used for.
func (c *Client) Claim(ctx context.Context, key, what string, window time.Duration) (used string, err error) {
	return claimScript.Run(ctx, c.appends, []string{c.claimsKey(key)}, key, what, window.Milliseconds(), claimsBound).Text()
}
