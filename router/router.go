package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/rishi-platform/millrace/pipeline"
)

// Source is where deliveries come from: a *pipeline.Bus.
type Source interface {
	Subscriber(g pipeline.GroupConfig) message.Subscriber
}

// Config is what a router is made with. The zero value is useful.
type Config struct {
	// Logger gets a line per change of state of the router, and at level debug what Watermill's router says. Default:
	// slog.Default().
	Logger *slog.Logger
	// DrainTimeout is how long a stop waits for the handlers that run, with their ctx alive. Default: 20 s.
	DrainTimeout time.Duration
}

// abandonAfter is how long Run waits, after the drain deadline has cancelled them, for handlers to return: long enough
// for a child process to get SIGTERM and, 5 s later, SIGKILL.
const abandonAfter = 6 * time.Second

// Router hands the events of consumer groups to handlers. Everything is registered before Run.
type Router struct {
	source     Source
	cfg        Config
	middleware []message.HandlerMiddleware
	groups     []*Group
	ran        atomic.Bool
	running    atomic.Int64 // handlers that have not returned yet
	cut        atomic.Int64 // handlers that returned when the drain deadline had passed
}

// New returns a router without groups.
func New(src Source, cfg Config) *Router {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.DrainTimeout == 0 {
		cfg.DrainTimeout = 20 * time.Second
	}
	return &Router{source: src, cfg: cfg}
}

// Use adds Watermill middleware around the handlers of all groups; the one added first is the outermost. Middleware sees
// the handler's error before it settles the delivery and may change it; a message that it returns for publishing is an
// error, since a handler publishes through the bus.
//
// Middleware that changes msg.Payload, to decrypt it or to bring an older form up to date, changes
// what the handler gets: Event.Data of its delivery, and so the Data of a typed handler. What is
// stored stays as it is: each further attempt begins with it, and pipeline.CurrentDelivery has it.
func (r *Router) Use(mw ...message.HandlerMiddleware) { r.middleware = append(r.middleware, mw...) }

// Run subscribes every group and blocks until ctx ends. Then it drains and returns nil. When the drain deadline cut handlers
// off, the error is pipeline.ErrDrainDeadline; when the bus was closed meanwhile, pipeline.ErrClosed.
//
// Everything that is wrong with what was registered is reported at once, before anything starts. A router runs once.
func (r *Router) Run(ctx context.Context) error {
	if r.ran.Swap(true) {
		return errors.New("run router: it ran before; make a new one")
	}
	if err := r.faults(); err != nil {
		return fmt.Errorf("run router: %w", err)
	}
	feeds, err := r.subscribe(ctx)
	if err != nil {
		return fmt.Errorf("run router: %w", err)
	}

	ended := make(chan error, 1)
	go func() { ended <- r.serve(ctx, feeds) }()
	r.cfg.Logger.Info("router is running", "groups", r.names())

	select {
	case <-ctx.Done():
		r.cfg.Logger.Info("router is draining", "groups", r.names(), "deadline", r.cfg.DrainTimeout)
		err = errors.Join(closeAll(feeds), <-ended, r.abandoned())
	case err = <-ended: // nobody but the bus ends all subscriptions of its own accord
		err = errors.Join(pipeline.ErrClosed, err, closeAll(feeds))
	}
	if err != nil {
		return fmt.Errorf("run router: %w", err)
	}
	r.cfg.Logger.Info("router has stopped", "groups", r.names())
	return nil
}

// feed is a subscription that is open already, as Watermill's router wants to see it. Closing is left to Run.
type feed struct {
	group    *Group
	source   message.Subscriber
	messages <-chan *message.Message
}

func (f feed) Subscribe(context.Context, string) (<-chan *message.Message, error) {
	return f.messages, nil
}
func (f feed) Close() error { return nil }

// subscribe opens the subscription of each group, all or none. The end of ctx must not reach them: they would stop what
// they handed out, and the drain is there to let it finish.
func (r *Router) subscribe(ctx context.Context) (feeds []feed, err error) {
	for _, g := range r.groups {
		source := r.source.Subscriber(g.config(r.cfg.DrainTimeout, len(r.middleware) > 0))
		messages, err := source.Subscribe(context.WithoutCancel(ctx), pipeline.AllStreams)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("subscribe group %q: %w", g.name, err), closeAll(feeds))
		}
		feeds = append(feeds, feed{group: g, source: source, messages: messages})
	}
	return feeds, nil
}

// closeAll closes the subscriptions at the same time, so that all drain until the same deadline, and waits for them.
func closeAll(feeds []feed) error {
	errs := make([]error, len(feeds))
	var wg sync.WaitGroup
	for i, f := range feeds {
		wg.Go(func() {
			if err := f.source.Close(); err != nil {
				errs[i] = fmt.Errorf("close group %q: %w", f.group.name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// serve runs Watermill's router until every subscription has ended and their handlers have returned, or abandonAfter is over.
func (r *Router) serve(ctx context.Context, feeds []feed) error {
	wm, err := message.NewRouter(message.RouterConfig{CloseTimeout: abandonAfter}, r.watermillLogger(ctx))
	if err != nil {
		return err
	}
	wm.AddMiddleware(r.settle)
	wm.AddMiddleware(r.middleware...)
	for _, f := range feeds {
		dispatch := f.group.dispatch
		if len(r.middleware) > 0 {
			dispatch = f.group.dispatchPayload
		}
		wm.AddConsumerHandler(f.group.name, pipeline.AllStreams, f, dispatch)
	}
	return wm.Run(context.WithoutCancel(ctx))
}

// watermillLogger passes on what Watermill's router says at level debug, its errors too: what it calls an error is settled
// and reported by us, or is the end of its channels that we brought about.
func (r *Router) watermillLogger(ctx context.Context) watermill.LoggerAdapter {
	if !r.cfg.Logger.Enabled(ctx, slog.LevelDebug) {
		return watermill.NopLogger{} // it makes fields for each message before it asks for the level
	}
	return watermill.NewSlogLoggerWithLevelMapping(r.cfg.Logger, map[slog.Level]slog.Level{
		slog.LevelInfo:  slog.LevelDebug,
		slog.LevelError: slog.LevelDebug,
	})
}

// abandoned says how many handlers the drain deadline cut off, nil if none.
func (r *Router) abandoned() error {
	running := r.running.Load()
	if n := running + r.cut.Load(); n > 0 {
		return fmt.Errorf("%w: %d handlers were cut off, %d of them are still running", pipeline.ErrDrainDeadline, n, running)
	}
	return nil
}

func (r *Router) names() []string {
	names := make([]string, len(r.groups))
	for i, g := range r.groups {
		names[i] = g.name
	}
	return names
}
