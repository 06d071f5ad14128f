package redistest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// sentinelMaster is the name under which Sentinels know their master.
const sentinelMaster = "millrace"

// Sentinels are three Sentinels that watch a master and its replica. A master that does not answer for 500 ms is replaced.
type Sentinels struct {
	Master, Replica *Server

	watchers []*Server
}

// StartSentinels starts a master, a replica and three Sentinels, and returns when they know each other.
func StartSentinels(tb testing.TB, args ...string) *Sentinels {
	tb.Helper()
	s := &Sentinels{Master: Start(tb, append([]string{"--repl-diskless-sync-delay", "0"}, args...)...)}
	_, port, _ := strings.Cut(s.Master.Addr(), ":")
	s.Replica = Start(tb, append([]string{"--replicaof", "127.0.0.1 " + port, "--repl-diskless-sync-delay", "0"}, args...)...)
	ctx := context.Background()
	within(tb, "the replica", func() bool { return strings.Contains(s.Master.node(tb).Info(ctx, "replication").Val(), "state=online") })
	for range 3 {
		s.watchers = append(s.watchers, startSentinel(tb, s.Master))
	}
	for _, w := range s.watchers {
		within(tb, "the sentinels", func() bool {
			info := w.node(tb).Info(ctx, "sentinel").Val()
			return strings.Contains(info, "status=ok") && strings.Contains(info, "slaves=1,sentinels=3")
		})
	}
	return s
}

func startSentinel(tb testing.TB, master *Server) *Server {
	tb.Helper()
	dir := tb.TempDir()
	config := filepath.Join(dir, "sentinel.conf") // it is rewritten by the Sentinel
	text := fmt.Sprintf("sentinel monitor %[1]s 127.0.0.1 %[2]d 2\nsentinel down-after-milliseconds %[1]s 500\nsentinel failover-timeout %[1]s 3000\n", sentinelMaster, master.port)
	must(tb, os.WriteFile(config, []byte(text), 0o600))
	s, err := newServerOf(dir, func(s *Server) []string {
		return []string{config, "--sentinel", "--bind", "127.0.0.1", "--port", fmt.Sprint(s.port), "--dir", dir}
	})
	if err != nil {
		tb.Fatalf("start a sentinel: %v", err)
	}
	tb.Cleanup(s.end)
	return s
}

// Options returns fresh options by which a client asks the Sentinels for the master.
func (s *Sentinels) Options() *redis.UniversalOptions {
	o := &redis.UniversalOptions{MasterName: sentinelMaster}
	for _, w := range s.watchers {
		o.Addrs = append(o.Addrs, w.Addr())
	}
	return o
}

// AwaitFailover waits until the replica has taken over.
func (s *Sentinels) AwaitFailover(tb testing.TB) {
	tb.Helper()
	within(tb, "the failover", func() bool {
		return strings.Contains(s.Replica.node(tb).Info(context.Background(), "replication").Val(), "role:master")
	})
}
