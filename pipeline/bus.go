package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/rishi-platform/millrace/internal/group"
	"github.com/rishi-platform/millrace/internal/loop"
	"github.com/rishi-platform/millrace/internal/memstream"
	"github.com/rishi-platform/millrace/internal/redisstream"
)

// Bus publishes events, keeps them, and delivers them to subscriptions and groups. It is safe for concurrent use. Open makes
// one, Close ends it.
type Bus struct {
	cfg      Config
	instance string // unique per start
	started  time.Time
	logger   *slog.Logger

	log   transport           // where events are stored: Redis, or local where there is none
	redis *redisstream.Client // log, if it is Redis; nil otherwise
	local *memstream.Memory   // what this process keeps itself; nil in mode redis-only

	writers   []*writer
	nextTurn  atomic.Uint64 // of the writers, for events without a subject
	published counters
	link      *link     // to Redis; nil without
	spool     *spooling // nil where there is none

	confirmed *confirmed      // by Redis; nil without
	rewind    chan struct{}   // asks rewoundLoop to look
	ending    chan struct{}   // closed when it is to look for the last time
	mending   context.Context // ends when what is lost is not appended again any more
	giveUp    context.CancelFunc
	looked    chan struct{} // closed when it has ended
	losses    losses
	refusals  refusals
	hungAfter time.Duration // hungAfter, but in tests

	loops     loop.Group
	appending loop.Group      // those of the writers
	stopped   context.Context // ends when Close begins
	stop      context.CancelCauseFunc

	ended    chan struct{} // closed when Close has done everything
	closeErr error         // what that came to; read after ended

	mu            sync.Mutex // guards what follows
	closed        bool
	consumers     map[*group.Consumer]struct{}
	subscriptions map[string]*subscription
	tails         map[tailKey]*tail
}

// Open returns a bus. With Redis it connects: a server that refuses for good (wrong password, missing right) is an error at
// once; one that is away is not, the bus goes on trying and says so in its state. Without Redis the bus is in memory.
func Open(ctx context.Context, cfg Config) (*Bus, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("configure bus: %w", err)
	}
	poolRandomness()
	b := &Bus{
		cfg:           cfg,
		instance:      hostname() + "-" + newID()[24:],
		started:       time.Now(),
		logger:        cfg.Logger,
		ended:         make(chan struct{}),
		consumers:     map[*group.Consumer]struct{}{},
		subscriptions: map[string]*subscription{},
		tails:         map[tailKey]*tail{},
		hungAfter:     hungAfter,
	}
	b.stopped, b.stop = context.WithCancelCause(context.Background())
	if !cfg.RedisOnly {
		b.local = memstream.New(cfg.LocalMaxLen)
		b.log = b.local
	}
	if cfg.Redis != nil {
		b.redis = redisstream.New(redisstream.Config{Redis: cfg.Redis, Namespace: cfg.Namespace, MaxLen: 2 * cfg.HardMaxLen, Appends: cfg.Writers})
		b.log = b.redis
		b.confirmed, b.rewind = newConfirmed(&cfg), make(chan struct{}, 1)
		b.ending, b.looked = make(chan struct{}), make(chan struct{})
		b.mending, b.giveUp = context.WithCancel(b.stopped)
		b.link = &link{bus: b, state: StateDurable, since: time.Now(), check: make(chan struct{}, 1), shards: map[redisstream.Shard]*shard{}}
		if cfg.SpoolDir != "" {
			if b.spool, err = openSpool(b); err != nil {
				return nil, errors.Join(fmt.Errorf("open bus: %w", err), b.redis.Close())
			}
		}
		if err := b.link.first(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("open bus: %w", err), b.closeSpool(), b.redis.Close())
		}
		b.loops.Start("link", b.link.loop)
		b.loops.Start("rewound", b.rewoundLoop)
		if b.spool != nil {
			b.loops.Start("drain", b.spool.drainLoop)
			b.loops.Start("adopt", b.spool.adoptLoop)
		}
	}
	for i := range cfg.Writers {
		b.writers = append(b.writers, newWriter(b, fmt.Sprintf("%s-%d", b.writersPrefix(), i)))
	}
	if cfg.Announce {
		b.loops.Start("announce", b.announceStart)
	}
	return b, nil
}

// writersPrefix is what the names of the writers begin with.
func (b *Bus) writersPrefix() string {
	if b.cfg.OneShot {
		return briefPrefix + b.instance
	}
	return b.instance
}

// Mode is how the bus was configured.
func (b *Bus) Mode() Mode {
	switch {
	case b.redis == nil:
		return ModeLocal
	case b.local == nil:
		return ModeRedis
	}
	return ModeHybrid
}

// State is what the bus can promise now.
func (b *Bus) State() State {
	if b.link == nil {
		return StateVolatile
	}
	return b.link.current()
}

// Ready returns nil while publishing works, else why it does not: Redis is away and nothing else keeps events, or it takes none (out of
// memory, a missing right). It is what the last check found, of a second ago at most. With Config.NoPublish it is about reading.
func (b *Bus) Ready() error {
	if b.isClosed() {
		return ErrClosed
	}
	op := "publish"
	if b.cfg.NoPublish {
		op = "read"
	}
	switch b.State() {
	case StateUnavailable:
		return b.link.unavailable(op)
	case StateSpooling:
		return b.spool.trouble()
	case StateDurable, StateDraining:
		return b.redisError(op, "", b.link.refused())
	}
	return nil
}

// Streams names the streams there are, sorted.
func (b *Bus) Streams(ctx context.Context) ([]string, error) {
	streams, err := b.log.Streams(ctx)
	return streams, b.redisError("list streams", "", err)
}

// Close ends the bus. What it opened it closes; when ctx ends first it returns the cause, and the rest ends as soon as it can. A later
// call waits for the same end.
//
// The order: first nothing new is taken, neither from callers nor from Redis. Groups drain, since their handlers may still
// publish. Then subscriptions end, which hear what those handlers published. Then the writers send what is queued and stop. The connections go last,
// when nobody uses them any more.
func (b *Bus) Close(ctx context.Context) error {
	b.mu.Lock()
	first := !b.closed
	b.closed = true
	consumers, subscriptions := slices.Collect(maps.Keys(b.consumers)), slices.Collect(maps.Values(b.subscriptions))
	b.mu.Unlock()

	if first {
		go func() {
			defer close(b.ended)
			if b.cfg.Announce {
				b.announceStop()
			}
			var draining sync.WaitGroup
			for _, c := range consumers {
				draining.Go(c.Close)
			}
			draining.Wait()
			for _, s := range subscriptions {
				s.cancel() // all of them, before one is waited for: they share their tails
			}
			for _, s := range subscriptions {
				s.close()
			}
			if b.confirmed != nil {
				b.lookForLosses()
			}
			for _, w := range b.writers {
				w.close()
			}
			b.appending.Wait()
			b.stop(ErrClosed)
			if b.local != nil {
				b.local.Close()
			}
			b.loops.Wait()
			b.closeErr = b.closeSpool()
			if b.redis != nil {
				b.closeErr = errors.Join(b.closeErr, b.redis.Close())
			}
		}()
	}
	select {
	case <-b.ended:
		return b.closeErr
	case <-ctx.Done():
		b.stop(context.Cause(ctx))
		return fmt.Errorf("close bus: %w", context.Cause(ctx))
	}
}

func (b *Bus) closeSpool() error {
	if b.spool == nil {
		return nil
	}
	return b.spool.log.Close()
}

// isAway reports whether Redis takes nothing now.
func (b *Bus) isAway() bool { return b.State().isAway() }

func (b *Bus) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

// redisError gives an error of the transport the shape that callers know. Nil stays nil.
func (b *Bus) redisError(op, stream string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, redisstream.ErrClosed) {
		return ErrClosed
	}
	e := &RedisError{Op: op, Key: stream, Err: err}
	if stream != "" && b.cfg.Namespace != "" {
		e.Key = b.cfg.Namespace + ":" + stream
	}
	switch redisstream.Classify(err) {
	case redisstream.Away, redisstream.Silent:
		e.Kind = ErrUnavailable
		e.Hint = awayHint(err)
	case redisstream.Lost:
		e.Kind = ErrUnavailable
	case redisstream.ReadOnly:
		e.Kind, e.Hint = ErrUnavailable, "the server refuses writes: disk full, or too few replicas"
	case redisstream.BackPressure:
		e.Kind, e.Hint = ErrBackPressure, "the server is out of memory: raise maxmemory or keep fewer events"
	case redisstream.Denied:
		e.Kind, e.Hint = ErrDenied, deniedHint(err)
	default:
		return fmt.Errorf("%s: %w", op, err)
	}
	return e
}

func watermillLogger(l *slog.Logger) watermill.LoggerAdapter {
	return watermill.NewSlogLoggerWithLevelMapping(l, map[slog.Level]slog.Level{slog.LevelInfo: slog.LevelDebug})
}
