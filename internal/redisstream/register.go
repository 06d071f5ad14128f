package redisstream

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// registerEvery is how often a stream that is appended to is entered into the registry again, so that a registry that was
	// lost with the rest of the server's data comes back.
	registerEvery = 5 * time.Second
	// registerWait is how long the first append to a stream waits in Cluster for the shard of the registry, and registerAgain after what time
	// that is tried again.
	registerWait, registerAgain = time.Second, time.Second
)

// target is a stream that is appended to.
type target struct {
	stream                             string
	key, writers, meta, seen, seenWhat any          // its keys
	registered                         atomic.Int64 // when it was entered into the registry, ns since the Unix epoch; 0: it was not
}

// targets are the streams that were appended to.
type targets struct{ byName sync.Map }

func (t *targets) of(c *Client, stream string) *target {
	if known, ok := t.byName.Load(stream); ok {
		return known.(*target)
	}
	made, _ := t.byName.LoadOrStore(stream, &target{
		stream: stream, key: c.streamKey(stream), writers: c.writersKey(stream), meta: c.metaKey(stream), seen: c.seenKey(stream), seenWhat: c.seenWhatKey(stream),
	})
	return made.(*target)
}

// register enters a stream into the registry before its first append: one that is not there would not be found by those who
// follow all streams. Later it is entered again from time to time, and nobody waits for that.
//
// In Cluster the registry is on a shard of its own. Where that is away the append goes on: nobody can read the registry meanwhile, and when it is back
// the stream is entered.
func (c *Client) register(ctx context.Context, to *target) error {
	at := to.registered.Load()
	if at > 0 {
		if time.Since(time.Unix(0, at)) > registerEvery {
			c.registrar.add(to)
		}
		return nil
	}
	return c.registerNow(ctx, to)
}

// registerNow enters a stream into the registry.
func (c *Client) registerNow(ctx context.Context, to *target) error {
	_, cluster := c.appends.(*redis.ClusterClient)
	if cluster {
		if c.registrar.isFailing() {
			c.registrar.add(to)
			return nil
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, registerWait)
		defer cancel()
	}
	err := c.enter(ctx, to)
	if cluster && Classify(err) == Away {
		c.registrar.add(to)
		return nil
	}
	return err
}

func (c *Client) enter(ctx context.Context, streams ...*target) error {
	names := make([]any, len(streams))
	for i, to := range streams {
		names[i] = to.stream
	}
	if err := c.appends.SAdd(ctx, c.registryKey(), names...).Err(); err != nil {
		return err
	}
	for _, to := range streams {
		to.registered.Store(time.Now().UnixNano())
	}
	return nil
}

// registrar enters streams into the registry while nobody waits for it.
type registrar struct {
	client *Client
	ctx    context.Context // ends with the client
	end    context.CancelFunc
	loop   sync.WaitGroup

	mu      sync.Mutex // guards what follows
	due     map[*target]struct{}
	running bool
	failing bool
	ended   bool
}

func newRegistrar(c *Client) *registrar {
	r := &registrar{client: c, due: map[*target]struct{}{}}
	r.ctx, r.end = context.WithCancel(context.Background())
	return r
}

func (r *registrar) isFailing() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failing
}

// add has a stream entered soon.
func (r *registrar) add(to *target) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.due[to] = struct{}{}
	if !r.running && !r.ended {
		r.running = true
		r.loop.Go(r.run)
	}
}

// run enters what is due, until nothing is.
func (r *registrar) run() {
	for {
		r.mu.Lock()
		streams := make([]*target, 0, len(r.due))
		for to := range r.due {
			streams = append(streams, to)
		}
		if r.running = len(streams) > 0 && r.ctx.Err() == nil; !r.running {
			r.mu.Unlock()
			return
		}
		r.mu.Unlock() // they stay due until they are entered: who asks meanwhile is to know of them
		err := r.client.enter(r.ctx, streams...)
		again := err != nil
		r.mu.Lock()
		r.failing = Classify(err) == Away
		for _, to := range streams {
			if !again {
				delete(r.due, to)
			}
		}
		r.mu.Unlock()
		if again {
			select {
			case <-time.After(registerAgain):
			case <-r.ctx.Done():
			}
		}
	}
}

// forget makes the next append to a stream enter it.
func (r *registrar) forget(to *target) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.due, to)
	to.registered.Store(0)
}

// close ends it, with a last try. The error names the streams that nobody finds who does not know them.
func (r *registrar) close() error {
	r.mu.Lock()
	r.ended = true
	r.mu.Unlock()
	r.end()
	r.loop.Wait()
	var never []*target
	for to := range r.due {
		if to.registered.Load() == 0 {
			never = append(never, to)
		}
	}
	if len(never) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), registerWait)
	defer cancel()
	err := r.client.enter(ctx, never...)
	if err == nil {
		return nil
	}
	names := make([]string, len(never))
	for i, to := range never {
		names[i] = to.stream
	}
	slices.Sort(names)
	return fmt.Errorf("streams %s are not in the registry, the next append to them enters them: %w", strings.Join(names, ", "), err)
}

// missing names the streams that were appended to and are not in the registry yet.
func (r *registrar) missing() (streams []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for to := range r.due {
		if to.registered.Load() == 0 {
			streams = append(streams, to.stream)
		}
	}
	slices.Sort(streams)
	return streams
}

// Unregistered names the streams that this client has appended to and that are not in the registry yet: the shard of that is away.
func (c *Client) Unregistered() []string { return c.registrar.missing() }
