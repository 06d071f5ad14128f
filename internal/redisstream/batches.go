package redisstream

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// batches sends scripts that several callers run at the same time in one round trip. A process with
// 1,000 memberships beats 500 times a second at most, and leaves 1,000 groups when it stops; one that
// publishes to 100 streams has 100 appends under way: over a slow link each call would wait for one of a
// few connections, and come too late.
//
// Nobody waits for company. A caller that finds less than most senders at work sends his call himself, and
// what has come meanwhile is sent at once by the first who waits. Who comes while one is about to leave goes
// with him: each by himself, they would leave with one call.
type batches struct {
	client redis.UniversalClient
	most   int // round trips that are under way at once
	// patient: who gives up waits for the answer of what is on its way, a beat, say: one that came after its
	// consumer has left would bring it back.
	patient bool

	company atomic.Bool // the last call did not go alone

	mu      sync.Mutex
	waiting []*batchCall
	senders int
	leaving bool // one of them is about to take what waits
}

// batchCall is one script to be run.
type batchCall struct {
	script *redis.Script
	args   []any // the whole command
	bytes  int   // of them, where they are many
	reply  *redis.Cmd
	turn   chan turn // tells a caller that waits
	until  time.Time // when its caller gives up; zero: never
}

// turn is what happens to a caller that waits.
type turn int

const (
	answered turn = iota // his reply is there
	sends                // it is his turn to send
)

const (
	// batchSenders is how many round trips of beats are under way at most.
	batchSenders = 2
	// batchMost is how many scripts go in one: a few milliseconds of the server. batchBytes is the most of
	// what they bring, as far as there is more than one.
	batchMost, batchBytes = 64, 256 << 10
)

// run runs a script and returns its reply.
func (b *batches) run(ctx context.Context, script *redis.Script, keys []string, args ...any) *redis.Cmd {
	all := append(make([]any, 0, 3+len(keys)+len(args)), evalsha, script.Hash(), len(keys))
	for _, key := range keys {
		all = append(all, key)
	}
	return b.eval(ctx, &batchCall{script: script, args: append(all, args...)})
}

// eval runs a call and returns its reply. In Cluster it goes alone: a shard that does not answer must hold up
// no other one.
func (b *batches) eval(ctx context.Context, call *batchCall) *redis.Cmd {
	if _, cluster := b.client.(*redis.ClusterClient); cluster {
		b.alone(ctx, call)
		return call.reply
	}
	call.until, _ = ctx.Deadline()
	b.mu.Lock()
	if b.senders < b.most && !b.leaving { // so nobody waits
		b.senders++
		b.leaving = true
		b.mu.Unlock()
		b.send(ctx, call)
		return call.reply
	}
	call.turn = make(chan turn, 1)
	b.waiting = append(b.waiting, call)
	b.mu.Unlock()
	select {
	case what := <-call.turn:
		return b.hasTurn(ctx, call, what)
	case <-ctx.Done():
	}
	if b.drop(call) {
		gaveUp := redis.NewCmd(ctx)
		gaveUp.SetErr(notSent{context.Cause(ctx)})
		return gaveUp
	}
	return b.hasTurn(ctx, call, <-call.turn) // it is on its way
}

func (b *batches) hasTurn(ctx context.Context, call *batchCall, what turn) *redis.Cmd {
	if what == sends {
		b.send(ctx, call)
	}
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

// send sends a call, with those that wait, and with those that can run now where calls have company as a rule; and has the first of those that have come
// meanwhile go on.
func (b *batches) send(ctx context.Context, call *batchCall) {
	if b.company.Load() {
		runtime.Gosched()
	}
	batch := b.take(call)
	b.company.Store(len(batch) > 1)
	cancel := func() {}
	switch {
	case b.patient:
		ctx, cancel = context.WithTimeout(context.Background(), replyTimeout)
	case len(batch) > 1: // whoever gives up gives up his own call only; but whose time is over must hear that, and the others try again
		ctx = untilFirst(context.WithoutCancel(ctx), batch)
	}
	if len(batch) == 1 {
		b.alone(ctx, call)
	} else {
		b.exec(ctx, batch)
	}
	cancel()
	for _, other := range batch {
		if other != call {
			other.turn <- answered
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.next() {
		b.senders--
	}
}

// next has the first who waits send next, unless somebody is about to leave who takes him along. The lock is held.
func (b *batches) next() bool {
	if len(b.waiting) == 0 || b.leaving {
		return false
	}
	b.leaving = true
	first := b.waiting[0]
	b.waiting = b.waiting[1:]
	first.turn <- sends
	return true
}

// untilFirst gives ctx the first of the deadlines of a batch. It has no timer: the connection keeps to it.
func untilFirst(ctx context.Context, batch []*batchCall) context.Context {
	var first time.Time
	for _, call := range batch {
		if !call.until.IsZero() && (first.IsZero() || call.until.Before(first)) {
			first = call.until
		}
	}
	if first.IsZero() {
		return ctx
	}
	return withDeadline{ctx, first}
}

type withDeadline struct {
	context.Context
	at time.Time
}

func (c withDeadline) Deadline() (deadline time.Time, ok bool) { return c.at, true }

// alone runs a call. A script that the server does not know goes there with it.
func (b *batches) alone(ctx context.Context, call *batchCall) {
	call.reply = redis.NewCmd(ctx, call.args...)
	_ = b.client.Process(ctx, unrepeated{call.reply}) // the reply says it
	if err := call.reply.Err(); err != nil && redis.HasErrorPrefix(err, "NOSCRIPT") {
		call.reply = redis.NewCmd(ctx, withText(call.script, call.args)...)
		_ = b.client.Process(ctx, unrepeated{call.reply})
	}
}

// unrepeated is a command that a Cluster client does not send again by itself, where an answer did not come: only the last error would be told, which
// may be that of a connection that was never made, and what the first time has done nobody would know.
type unrepeated struct{ *redis.Cmd }

func (unrepeated) NoRetry() bool { return true }

// exec runs a batch. Scripts that the server does not know yet are loaded, and run then.
func (b *batches) exec(ctx context.Context, batch []*batchCall) {
	left := batch
	for range 2 {
		_, _ = b.client.Pipelined(ctx, func(p redis.Pipeliner) error { // the replies say it
			for _, call := range left {
				call.reply = p.Do(ctx, call.args...)
			}
			return nil
		})
		var unknown []*batchCall
		loaded := map[*redis.Script]bool{}
		for _, call := range left {
			if err := call.reply.Err(); err == nil || !redis.HasErrorPrefix(err, "NOSCRIPT") {
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

// take returns a call with those that wait, as many as may go together. What must stay leaves with another sender.
func (b *batches) take(call *batchCall) (batch []*batchCall) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.leaving = false
	n, bytes := 0, call.bytes
	for n < len(b.waiting) && n+1 < batchMost && bytes+b.waiting[n].bytes <= batchBytes {
		bytes += b.waiting[n].bytes
		n++
	}
	batch = append(append(make([]*batchCall, 0, n+1), call), b.waiting[:n]...)
	if b.waiting = b.waiting[n:]; len(b.waiting) == 0 {
		b.waiting = nil
	}
	if b.senders < b.most && b.next() {
		b.senders++
	}
	return batch
}
