package redisstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// Shard names a shard of a cluster, by the address of its master. Without a cluster there is one, with an empty name.
type Shard string

// IsCluster reports whether the client is one of a cluster.
func (c *Client) IsCluster() bool {
	_, is := c.appends.(*redis.ClusterClient)
	return is
}

// Shards names the shards there are, sorted. The error is that of a cluster of which no node answers.
func (c *Client) Shards(ctx context.Context) ([]Shard, error) {
	cluster, ok := c.appends.(*redis.ClusterClient)
	if !ok {
		return []Shard{""}, nil
	}
	var mu sync.Mutex
	var shards []Shard
	err := cluster.ForEachMaster(ctx, func(_ context.Context, node *redis.Client) error {
		mu.Lock()
		defer mu.Unlock()
		shards = append(shards, Shard(node.Options().Addr))
		return nil
	})
	slices.Sort(shards)
	if err == nil && len(shards) == 0 {
		err = fmt.Errorf("the cluster has no masters")
	}
	return shards, err
}

// ShardOf returns the shard of a stream, as far as it is known without asking.
func (c *Client) ShardOf(stream string) Shard {
	return c.shardOf(c.streamKey(stream))
}

func (c *Client) shardOf(key string) Shard {
	cluster, ok := c.appends.(*redis.ClusterClient)
	if !ok {
		return ""
	}
	node, err := cluster.MasterForKey(context.Background(), key)
	if err != nil {
		return ""
	}
	return Shard(node.Options().Addr)
}

// probeKeys are keys that are never there, one of each shard.
type probeKeys struct {
	mu   sync.Mutex
	of   map[Shard]string
	none map[Shard]time.Time // those of which none was found, until when it is not looked for
}

const (
	// probeTries is how many names are tried to find a key of a shard: of a shard of a single slot none is found once in 3,000 times.
	probeTries = 1 << 17
	// probeAgain is how long it takes until that is tried again.
	probeAgain = time.Minute
)

// ErrNoSlots: a shard has nothing that could be asked for.
var ErrNoSlots = errors.New("shard has no slots")

// PingReadShard is PingRead of one shard.
func (c *Client) PingReadShard(ctx context.Context, shard Shard) (time.Duration, error) {
	if !c.IsCluster() || shard == "" {
		return c.PingRead(ctx)
	}
	key, ok := c.probes.find(shard, c.shardOf, c.probeKey)
	if !ok {
		return 0, ErrNoSlots
	}
	start := time.Now()
	err := c.admin.Exists(ctx, key).Err()
	if isKeyRefused(err) { // it has answered
		err = nil
	}
	return time.Since(start), err
}

// PingShard is Ping of one shard.
func (c *Client) PingShard(ctx context.Context, shard Shard) (time.Duration, error) {
	cluster, ok := c.appends.(*redis.ClusterClient)
	if !ok || shard == "" {
		return c.Ping(ctx)
	}
	key, ok := c.probes.find(shard, c.shardOf, c.probeKey)
	if !ok {
		return 0, ErrNoSlots
	}
	latency, err := c.probe(ctx, key)
	if isKeyRefused(err) { // the user has the keys of some streams, and not this one
		start := time.Now()
		node, nodeErr := cluster.MasterForKey(ctx, key)
		if nodeErr != nil {
			return 0, nodeErr
		}
		err = node.Ping(ctx).Err()
		latency = time.Since(start)
	}
	return latency, c.explained(ctx, err)
}

// find returns a key of a shard.
func (p *probeKeys) find(shard Shard, shardOf func(key string) Shard, name func(n int) string) (key string, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if key = p.of[shard]; key != "" && shardOf(key) == shard {
		return key, true
	}
	if time.Now().Before(p.none[shard]) {
		return "", false
	}
	for n := range probeTries {
		if key = name(n); shardOf(key) == shard {
			if p.of == nil {
				p.of = map[Shard]string{}
			}
			p.of[shard] = key
			return key, true
		}
	}
	if p.none == nil {
		p.none = map[Shard]time.Time{}
	}
	p.none[shard] = time.Now().Add(probeAgain)
	return "", false
}
