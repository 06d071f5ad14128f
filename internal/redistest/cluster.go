package redistest

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

const clusterSlots = 16384

// Cluster is a Redis Cluster of one test: three masters with a third of the slots each. A shard that is away leaves the others in service
// (cluster-require-full-coverage no), and counts as failed after 500 ms.
type Cluster struct {
	Masters []*Server
	Replica *Server // of the first master; nil: there is none
}

// StartCluster starts a cluster, and a replica of its first master where one is asked for, and returns when all nodes agree.
func StartCluster(tb testing.TB, replica bool, args ...string) *Cluster {
	tb.Helper()
	args = append([]string{"--cluster-enabled", "yes", "--cluster-node-timeout", "500", "--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0"}, args...)
	c := &Cluster{}
	for range 3 {
		c.Masters = append(c.Masters, Start(tb, args...))
	}
	nodes := slices.Clone(c.Masters)
	if replica {
		c.Replica = Start(tb, append(args, "--cluster-replica-validity-factor", "0")...)
		nodes = append(nodes, c.Replica)
	}
	ctx := context.Background()
	for i, s := range nodes {
		node := s.node(tb)
		must(tb, node.Do(ctx, "CLUSTER", "SET-CONFIG-EPOCH", i+1).Err())
		if s != c.Replica {
			must(tb, node.Do(ctx, "CLUSTER", "ADDSLOTSRANGE", i*clusterSlots/3, (i+1)*clusterSlots/3-1).Err())
		}
		if i > 0 {
			must(tb, node.Do(ctx, "CLUSTER", "MEET", "127.0.0.1", c.Masters[0].port, c.Masters[0].busPort()).Err())
		}
	}
	c.await(tb, nodes, func(info map[string]string) bool {
		return info["cluster_state"] == "ok" && info["cluster_known_nodes"] == strconv.Itoa(len(nodes)) && info["cluster_slots_ok"] == strconv.Itoa(clusterSlots)
	})
	if replica {
		must(tb, c.Replica.node(tb).Do(ctx, "CLUSTER", "REPLICATE", c.Masters[0].node(tb).Do(ctx, "CLUSTER", "MYID").Val()).Err())
		within(tb, "the replica", func() bool {
			return strings.Contains(c.Masters[0].node(tb).Info(ctx, "replication").Val(), "state=online") &&
				strings.Contains(c.Masters[1].node(tb).ClusterNodes(ctx).Val(), "slave")
		})
	}
	return c
}

// Options returns fresh options with the addresses of the masters.
func (c *Cluster) Options() *redis.UniversalOptions {
	o := &redis.UniversalOptions{IsClusterMode: true}
	for _, s := range c.Masters {
		o.Addrs = append(o.Addrs, s.Addr())
	}
	return o
}

// Client returns a client that the test's Cleanup closes.
func (c *Cluster) Client(tb testing.TB) *redis.ClusterClient {
	tb.Helper()
	client := redis.NewUniversalClient(c.Options()).(*redis.ClusterClient)
	tb.Cleanup(func() { _ = client.Close() })
	return client
}

// Owner returns the master that a key belonged to when the cluster was made.
func (c *Cluster) Owner(tb testing.TB, key string) *Server {
	tb.Helper()
	return c.Masters[c.slot(tb, key)*3/clusterSlots]
}

// StreamOn returns the name of a stream, without a namespace, that belongs to one of the masters: prefix and a number.
func (c *Cluster) StreamOn(tb testing.TB, master int, prefix string) string {
	tb.Helper()
	for i := 0; ; i++ {
		if stream := fmt.Sprint(prefix, i); c.Owner(tb, stream) == c.Masters[master] {
			return stream
		}
	}
}

func (c *Cluster) slot(tb testing.TB, key string) int {
	tb.Helper()
	slot, err := c.Masters[0].node(tb).ClusterKeySlot(context.Background(), key).Result()
	must(tb, err)
	return int(slot)
}

// MoveSlot moves the slot of a key to another master, with all keys in it, as an operator does: while it lasts some keys of the slot are here and
// some there. Between is called when all keys but some are there; nil: nothing is.
func (c *Cluster) MoveSlot(tb testing.TB, key string, to *Server, between func()) {
	tb.Helper()
	ctx, slot, from := context.Background(), c.slot(tb, key), c.Owner(tb, key)
	source, target := from.node(tb), to.node(tb)
	sourceID, targetID := source.Do(ctx, "CLUSTER", "MYID").Val(), target.Do(ctx, "CLUSTER", "MYID").Val()
	must(tb, target.Do(ctx, "CLUSTER", "SETSLOT", slot, "IMPORTING", sourceID).Err())
	must(tb, source.Do(ctx, "CLUSTER", "SETSLOT", slot, "MIGRATING", targetID).Err())
	for {
		keys, err := source.ClusterGetKeysInSlot(ctx, slot, 100).Result()
		must(tb, err)
		if len(keys) == 0 {
			break
		}
		for _, one := range keys {
			must(tb, source.Do(ctx, "MIGRATE", "127.0.0.1", to.port, one, 0, 5000).Err())
			if between != nil {
				between()
			}
		}
	}
	for _, s := range []*Server{to, from} {
		must(tb, s.node(tb).Do(ctx, "CLUSTER", "SETSLOT", slot, "NODE", targetID).Err())
	}
}

// AwaitFailover waits until the replica has taken over.
func (c *Cluster) AwaitFailover(tb testing.TB) {
	tb.Helper()
	within(tb, "the failover", func() bool {
		return strings.Contains(c.Replica.node(tb).Info(context.Background(), "replication").Val(), "role:master")
	})
}

func (c *Cluster) await(tb testing.TB, nodes []*Server, fact func(map[string]string) bool) {
	tb.Helper()
	for _, s := range nodes {
		within(tb, "the cluster", func() bool {
			info := map[string]string{}
			for line := range strings.Lines(s.node(tb).ClusterInfo(context.Background()).Val()) {
				name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
				info[name] = value
			}
			return fact(info)
		})
	}
}

// node returns a client of one node alone, which the test's Cleanup closes.
func (s *Server) node(tb testing.TB) *redis.Client {
	tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.alone == nil {
		s.alone = redis.NewClient(&redis.Options{Addr: s.Addr()})
		tb.Cleanup(func() { _ = s.alone.Close() })
	}
	return s.alone
}

// busPort is the port on which nodes of a cluster talk.
func (s *Server) busPort() string {
	return s.args[slices.Index(s.args, "--cluster-port")+1]
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// within waits for a fact.
func within(tb testing.TB, what string, fact func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(patience); !fact(); time.Sleep(pollEvery) {
		if time.Now().After(deadline) {
			tb.Fatalf("waited in vain for %s", what)
		}
	}
}
