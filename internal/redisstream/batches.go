package redisstream

import (
	"context"
	"slices"
	"sync"

	"github.com/redis/go-redis/v9"
)

// batches sends scripts that several callers run at the same time in one round trip. A process with
// 1,000 memberships beats 500 times a second at most, and leaves 1,000 groups when it stops: over a slow
// link each call would wait for one of a few connections, and come too late.
type batches struct {
	client redis.UniversalClient

	mu      sync.Mutex
	waiting []*batchCall
	senders int
}

// batchCall is one script to be run.
type batchCall struct {
	script *redis.Script
	keys   []string
	args   []any
	reply  *redis.Cmd
	done   chan struct{}
}

const (
	// batchSenders is how many round trips are under way at most.
	batchSenders = 2
	// batchMost is how many scripts go in one: a few milliseconds of the server.
	batchMost = 64
)

// run runs a script and returns its reply. In Cluster it goes alone: a shard that does not answer must
// hold up no other one.
func (b *batches) run(ctx context.Context, script *redis.Script, keys []string, args ...any) *redis.Cmd {
	if _, cluster := b.client.(*redis.ClusterClient); cluster {
		return script.Run(ctx, b.client, keys, args...)
	}
	call := &batchCall{script: script, keys: keys, args: args, done: make(chan struct{})}
	b.mu.Lock()
	b.waiting = append(b.waiting, call)
	if b.senders < batchSenders {
		b.senders++
		go b.send()
	}
	b.mu.Unlock()
	select {
	case <-call.done:
		return call.reply
	case <-ctx.Done():
	}
	if b.drop(call) {
		gaveUp := redis.NewCmd(ctx)
		gaveUp.SetErr(context.Cause(ctx))
		return gaveUp
	}
	<-call.done // it is on its way: a beat that came after its consumer has left would bring it back
	return call.reply
}

// drop takes a call back, if it was not sent yet.
func (b *batches) drop(call *batchCall) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.Index(b.waiting, call)
	if i >= 0 {
		b.waiting = slices.Delete(b.waiting, i, i+1)
	}
	return i >= 0
}

// send sends what waits until nothing does.
func (b *batches) send() {
	for batch := b.take(); len(batch) > 0; batch = b.take() {
		ctx, cancel := context.WithTimeout(context.Background(), replyTimeout)
		b.exec(ctx, batch)
		cancel()
		for _, call := range batch {
			close(call.done)
		}
	}
}

// exec runs a batch. Scripts that the server does not know yet are loaded, and run then.
func (b *batches) exec(ctx context.Context, batch []*batchCall) {
	left := batch
	for range 2 {
		_, _ = b.client.Pipelined(ctx, func(p redis.Pipeliner) error { // the replies say it
			for _, call := range left {
				call.reply = call.script.EvalSha(ctx, p, call.keys, call.args...)
			}
			return nil
		})
		var unknown []*batchCall
		loaded := map[*redis.Script]bool{}
		for _, call := range left {
			if !redis.HasErrorPrefix(call.reply.Err(), "NOSCRIPT") {
				continue
			}
			if !loaded[call.script] && loadScript(ctx, b.client, call.script) != nil {
				continue
			}
			loaded[call.script] = true
			unknown = append(unknown, call)
		}
		if left = unknown; len(left) == 0 {
			return
		}
	}
}

// take returns what is to be sent next; nothing: the sender ends.
func (b *batches) take() (batch []*batchCall) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(len(b.waiting), batchMost)
	batch, b.waiting = slices.Clone(b.waiting[:n]), b.waiting[n:]
	if n == 0 {
		b.waiting = nil
		b.senders--
	}
	return batch
}
