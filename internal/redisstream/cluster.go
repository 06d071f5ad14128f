package redisstream

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// topology is a hook of a Cluster client that keeps what it knows of the cluster up to date. go-redis asks for it once a minute by itself, and where
// a reply says that a slot has moved; it does not look into raw replies, and an error of a connection does not make it ask. So a worker stood
// still for 58 s when a slot had moved, and what was published waited for 40 s when a replica had taken over long since.
type topology struct{ client *redis.ClusterClient }

// followCluster gives a client the hook, if it is one of a cluster.
func followCluster(client redis.UniversalClient) {
	if cluster, ok := client.(*redis.ClusterClient); ok {
		cluster.AddHook(&topology{cluster})
	}
}

const (
	// redirects is how often a raw command follows a slot that has moved. The state of the cluster is loaded in the background meanwhile, at
	// most every 200 ms.
	redirects      = 20
	redirectsPause = 25 * time.Millisecond
)

func (h *topology) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h *topology) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		raw, isRaw := cmd.(*redis.RawCmd)
		for range redirects {
			if err != nil || !isRaw {
				break
			}
			to, asking, moved := redirected(raw.Val())
			if !moved {
				return nil
			}
			if asking {
				err = h.ask(ctx, to, raw)
				continue
			}
			h.client.ReloadState(ctx)
			select {
			case <-time.After(redirectsPause):
			case <-ctx.Done():
				return ctx.Err()
			}
			err = next(ctx, cmd)
		}
		h.learn(ctx, err)
		return err
	}
}

func (h *topology) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		h.learn(ctx, err)
		return err
	}
}

// learn has the state of the cluster loaded where an error may mean that it has changed.
func (h *topology) learn(ctx context.Context, err error) {
	if Classify(err) == Away {
		h.client.ReloadState(ctx)
	}
}

// redirected reports whether a raw reply sends the command to another node, and whether that has to be asked for: the slot is on its way there.
func redirected(reply []byte) (to string, asking, is bool) {
	if len(reply) == 0 || reply[0] != '-' {
		return "", false, false
	}
	asking = bytes.HasPrefix(reply, []byte("-ASK "))
	if !asking && !bytes.HasPrefix(reply, []byte("-MOVED ")) {
		return "", false, false
	}
	fields := strings.Fields(string(reply))
	return fields[len(fields)-1], asking, true
}

// ask runs a raw command at a node that takes over its slot.
func (h *topology) ask(ctx context.Context, addr string, cmd *redis.RawCmd) error {
	var mu sync.Mutex
	var node *redis.Client
	err := h.client.ForEachMaster(ctx, func(_ context.Context, one *redis.Client) error {
		mu.Lock()
		defer mu.Unlock()
		if one.Options().Addr == addr {
			node = one
		}
		return nil
	})
	if err != nil {
		return err
	}
	if node == nil { // it has joined the cluster since
		h.client.ReloadState(ctx)
		return serverError("TRYAGAIN the slot moves to " + addr)
	}
	_, err = node.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.Do(ctx, "ASKING")
		return p.Process(ctx, cmd)
	})
	return err
}
