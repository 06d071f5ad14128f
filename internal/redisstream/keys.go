package redisstream

import (
	"hash/fnv"
	"strconv"
)

// All keys are made in this file. A stream "booking" in namespace "acme" is the key "acme:booking"; its companions carry
// that key as their hash tag, "{acme:booking}:meta", so that a stream and all that belongs to it share one Cluster slot
// (a key without braces hashes as a whole) and every script is a single-slot script.

func (c *Client) streamKey(stream string) string {
	if c.namespace == "" {
		return stream
	}
	return c.namespace + ":" + stream
}

func (c *Client) companion(stream, suffix string) string {
	return "{" + c.streamKey(stream) + "}:" + suffix
}

// metaKey is a hash: what the groups take, what they left unhandled or lost, their frontiers and pauses, and what their consumers say of
// themselves.
func (c *Client) metaKey(stream string) string { return c.companion(stream, "meta") }

// removedKey is there for a while when the stream was removed.
func (c *Client) removedKey(stream string) string { return c.companion(stream, "removed") }

// writersKey is a hash of the last append of each writer.
func (c *Client) writersKey(stream string) string { return c.companion(stream, "writers") }

// seenKey is a sorted set of the keys under which events were appended once, by when they are forgotten, and seenWhatKey a hash of what was appended.
func (c *Client) seenKey(stream string) string     { return c.companion(stream, "seen") }
func (c *Client) seenWhatKey(stream string) string { return c.companion(stream, "seen:what") }

// laneKey is the private stream of one group.
func (c *Client) laneKey(stream, group string) string { return c.companion(stream, "lane:"+group) }

// deferredKey is a sorted set of deliveries that wait for their next attempt, by due time.
func (c *Client) deferredKey(stream, group string) string {
	return c.companion(stream, "deferred:"+group)
}

// waitingKey is a sorted set of deliveries that wait for a consumer of their type.
func (c *Client) waitingKey(stream, group string) string {
	return c.companion(stream, "waiting:"+group)
}

// deadKey is the stream of deliveries that a group gave up on.
func (c *Client) deadKey(stream, group string) string { return c.companion(stream, "dead:"+group) }

// flowKey is a hash of what a group has settled since something failed first, while anything has failed
// within the last minute; failedKey is a sorted set of the events that did (see failures.lua).
func (c *Client) flowKey(stream, group string) string   { return c.companion(stream, "flow:"+group) }
func (c *Client) failedKey(stream, group string) string { return c.companion(stream, "failed:"+group) }

// onceKey is there while it is remembered that the group has done an event.
func (c *Client) onceKey(stream, group, key string) string {
	return c.companion(stream, "once:"+group+":"+key)
}

// aliveKey is a sorted set of the consumers of a group, by the server time of their last beat.
func (c *Client) aliveKey(stream, group string) string { return c.companion(stream, "alive:"+group) }

// registryKey is the set of the names of all streams. Its two colons keep it apart from any stream: the key of one has at most one, behind
// its namespace.
func (c *Client) registryKey() string { return c.streamKey("millrace:registry:streams") }

// identityKey is a hash of one field, by which the server is known.
func (c *Client) identityKey() string { return c.streamKey("millrace:registry:identity") }

// claimsKey is a hash of what idempotency keys are used for. There are several, so that in Cluster a shard that is away concerns the keys of its own only.
func (c *Client) claimsKey(key string) string {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(key)) // never fails
	return c.streamKey("millrace:registry:keys:" + strconv.Itoa(int(hash.Sum32()%claimHashes)))
}

// probeKey is never there; see Ping. Those of other numbers than 0 are for other shards than that of the registry.
func (c *Client) probeKey(n int) string {
	if n == 0 {
		return "{" + c.registryKey() + "}:probe"
	}
	return c.streamKey("millrace:registry:probe:" + strconv.Itoa(n))
}

// sourceKey is the key of the stream or of the lane that the entry stands in.
func (c *Client) sourceKey(r Ref, group string) string {
	if r.Lane {
		return c.laneKey(r.Stream, group)
	}
	return c.streamKey(r.Stream)
}
