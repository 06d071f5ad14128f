package pipeline

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/rishi-platform/millrace/internal/loop"
	"github.com/rishi-platform/millrace/internal/pattern"
	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/wire"
)

// subscription is one call of Subscribe. For each stream it follows it first reads what lies behind its beginning by
// itself, and then takes part in the stream's tail for as long as it keeps up with it.
type subscription struct {
	bus    *Bus
	id     string
	config Subscription
	fn     func(context.Context, Event) error
	after  *cursor   // what config.After says, nil where it is empty
	begun  time.Time // before the streams were listed, or those that the cursor names
	ctx    context.Context
	cancel context.CancelFunc
	loops  sync.WaitGroup

	running sync.Mutex // held while fn runs: one event at a time
	spooled numbers    // of records of the spool whose events were heard before Redis had them; guarded by running

	streams map[string]bool // that are followed; guarded by Bus.mu

	placing sync.Mutex
	places  places // guarded by placing
}

func (b *Bus) subscribe(ctx context.Context, config Subscription, fn func(context.Context, Event) error) (string, error) {
	after, err := b.checkSubscription(&config)
	if err != nil {
		return "", err
	}
	s := &subscription{bus: b, id: newID(), config: config, fn: fn, after: after, begun: time.Now(), streams: map[string]bool{}}
	s.places.at = map[tailKey]spot{}
	if after != nil {
		s.begun = time.UnixMilli(after.Time)
	}
	// The subscription outlives the call, but not its ctx, and carries the values of it.
	s.ctx, s.cancel = context.WithCancel(ctx)
	if err := s.begin(); err != nil {
		s.cancel()
		return "", err
	}
	context.AfterFunc(s.ctx, func() { b.forget(s) })
	return s.id, nil
}

// begin follows the streams there are. One that only a wildcard matches and that Redis refuses for good does not stop the others, and
// discoverLoop tries it again.
func (s *subscription) begin() error {
	named, all := pattern.Streams(s.config.Patterns)
	streams := named
	var listed time.Time
	if all {
		listed = time.Now()
		there, err := s.discovered()
		if err != nil {
			return err
		}
		streams = slices.Concat(named, there)
		slices.Sort(streams)
		streams = slices.Compact(streams)
	}
	starts := map[tailKey]spot{}
	var refused error
	for _, stream := range streams {
		err := s.resolve(stream, s.after != nil, starts)
		if err != nil && (!errors.Is(err, ErrDenied) || slices.Contains(named, stream)) {
			return err
		}
		refused = cmp.Or(refused, err)
	}
	if len(starts) == 0 && refused != nil {
		return refused
	}
	if s.places.listed = listed; refused != nil {
		s.places.listed = s.begun // a stream that is not followed yet may have events since then
	}
	if err := context.Cause(s.ctx); err != nil {
		return err
	}
	b := s.bus
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return ErrClosed
	}
	b.subscriptions[s.id] = s
	s.follow(starts)
	if all {
		s.run("discover", s.discoverLoop)
	}
	return nil
}

// checkSubscription sets the defaults, and returns what the cursor says.
func (b *Bus) checkSubscription(s *Subscription) (after *cursor, err error) {
	if len(s.Patterns) == 0 {
		s.Patterns = []string{"**"}
	}
	invalid := &ValidationError{}
	if s.After != "" {
		c, err := s.After.parse()
		if err != nil {
			invalid.Faults = append(invalid.Faults, Fault{Index: -1, Field: "after", Reason: err.Error()})
		}
		if s.From != "" {
			invalid.Faults = append(invalid.Faults, Fault{Index: -1, Field: "from", Reason: "a cursor says where to begin"})
		}
		after = &c
	}
	setDefault(&s.From, Now)
	for _, p := range s.Patterns {
		if err := CheckPattern(p); err != nil {
			invalid.Faults = append(invalid.Faults, Fault{Index: -1, Field: "pattern", Reason: fmt.Sprintf("%q %v", p, err)})
		}
	}
	if s.From, err = ParsePosition(string(s.From)); err != nil {
		invalid.Faults = append(invalid.Faults, Fault{Index: -1, Field: "from", Reason: err.Error()})
	}
	if s.LocalOnly && b.local == nil {
		invalid.Faults = append(invalid.Faults, Fault{Index: -1, Field: "localOnly", Reason: "the bus keeps nothing itself in mode redis-only"})
	}
	if len(invalid.Faults) > 0 {
		return nil, invalid
	}
	return after, nil
}

// logs are the logs that the subscription follows: a stream in Redis, and the memory for what is local only.
func (s *subscription) logs(stream string) []tailKey {
	switch b := s.bus; {
	case s.config.LocalOnly:
		return []tailKey{{stream, true}}
	case b.redis != nil && b.local != nil:
		return []tailKey{{stream, false}, {stream, true}}
	default:
		return []tailKey{{stream, b.redis == nil}}
	}
}

// discovered names the streams there are that the patterns match.
func (s *subscription) discovered() ([]string, error) {
	var streams []string
	sources := s.bus.sources(AllSources)
	if s.config.LocalOnly {
		sources = s.bus.sources(FromLocal)
	}
	for _, log := range sources {
		there, err := log.Streams(s.ctx)
		if err != nil {
			return nil, s.bus.redisError("list streams", "", err)
		}
		for _, stream := range there {
			if len(pattern.Of(s.config.Patterns, stream)) > 0 {
				streams = append(streams, stream)
			}
		}
	}
	return streams, nil
}

// resolve turns After or From into an ID for each log of a stream, behind which everything is heard, so that nothing published after Subscribe can be
// missed. A stream that was found later, or that the cursor does not name, was made later, or is registered only now.
func (s *subscription) resolve(stream string, later bool, starts map[tailKey]spot) error {
	for _, key := range s.logs(stream) {
		if s.after != nil {
			if at, ok := s.after.at(key, s.bus.instance); ok {
				starts[key] = at
				continue
			}
		}
		if s.config.From != Now {
			starts[key] = spot{id: s.config.From.bound().Prev(), ordinal: uncounted} // the event at From is heard as well
			continue
		}
		info, err := s.bus.logOf(key).Info(s.ctx, stream)
		if err != nil {
			return s.bus.redisError("subscribe to", stream, err)
		}
		starts[key] = spot{id: info.Last, ordinal: info.EntriesAdded}
		if later {
			starts[key] = spot{id: newSince(info, s.begun), ordinal: uncounted}
		}
	}
	return nil
}

// follow follows each of these logs from behind the given ID. The caller holds Bus.mu and has seen that the bus is not closed: nothing
// begins once Close has.
func (s *subscription) follow(starts map[tailKey]spot) {
	for key, from := range starts {
		s.streams[key.stream] = true
		s.reached(key, from)
		t := s.bus.follow(key)
		at := t.spot(from.id, from.ordinal)
		s.run("subscription", func() {
			defer s.bus.unfollow(t)
			s.followLoop(t, at)
		})
	}
}

// run starts a loop of the subscription. It counts as one of the bus as well: a subscription that has ended is forgotten, and its function
// may still run when Close begins.
func (s *subscription) run(name string, loop func()) {
	s.loops.Add(1)
	s.bus.loops.Start(name, func() {
		defer s.loops.Done()
		loop()
	})
}

// discoverLoop begins to follow streams that are made later.
func (s *subscription) discoverLoop() {
	trouble := trouble{bus: s.bus, what: "streams", about: []any{"subscription", s.id}}
	for loop.Sleep(s.ctx, discoverEvery) {
		err := s.discover()
		switch {
		case s.ctx.Err() != nil:
			return
		case err == nil:
			trouble.over()
		case !trouble.wait(s.ctx, err):
			return
		}
	}
}

func (s *subscription) discover() error {
	listed := time.Now()
	streams, err := s.discovered()
	if err != nil {
		return err
	}
	starts := map[tailKey]spot{}
	for _, stream := range streams {
		s.bus.mu.Lock()
		known := s.streams[stream]
		s.bus.mu.Unlock()
		if !known {
			err = cmp.Or(err, s.resolve(stream, true, starts))
		}
	}
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	if s.bus.closed {
		return err
	}
	s.follow(starts)
	if err == nil {
		s.placing.Lock()
		s.places.listed = listed
		s.placing.Unlock()
	}
	return err
}

// followLoop hears first what is there already, by itself, so that nobody else waits for it; then it takes part in the tail. When it can't
// keep up with that it begins again.
func (s *subscription) followLoop(t *tail, at spot) {
	for ok := true; ok; {
		if at, ok = s.catchUp(t, at, redisstream.MaxID); ok {
			at, ok = s.listen(t, at)
		}
	}
}

// takeWithin is how long a subscription may take over one event before it leaves the tail, so that others need not wait any longer.
const takeWithin = 100 * time.Millisecond

// listen joins the tail, hears what came in between, and goes on with the tail until it is too slow for it. It returns how far it has
// got; false when the subscription or the tail has ended.
func (s *subscription) listen(t *tail, at spot) (spot, bool) {
	ctx, leave := context.WithCancel(s.ctx)
	defer leave()
	a, ok := t.attach(ctx, at)
	if !ok {
		return at, false
	}
	if a.anew {
		s.miss(t.key.gap(GapRecreated, at.id, uncounted))
	}
	late := time.AfterFunc(takeWithin, leave)
	defer late.Stop()
	if at, ok = s.catchUp(t, a.from, a.upTo); !ok {
		return at, false
	}
	late.Stop()
	for m := range a.messages {
		c := m.Context().Value(carriedKey{}).(*carried)
		switch {
		case c.gap != nil:
			if g := at.behind(c); g != nil {
				s.miss(g)
			}
		default:
			before := at.id
			missed, fresh := at.advance(c.spot)
			if missed > 0 {
				s.miss(t.key.gap(GapTrimmed, before, missed))
			}
			if fresh { // else it was heard while catching up
				late.Reset(takeWithin)
				if !s.hear(t.key, at, c.event) {
					return at, false
				}
				late.Stop()
			}
		}
		s.reached(t.key, at)
		m.Ack()
	}
	return at, s.ctx.Err() == nil
}

// catchUp hears what stands behind from, up to to, and returns how far it has got; false when the subscription has ended.
func (s *subscription) catchUp(t *tail, at spot, to redisstream.ID) (spot, bool) {
	trouble := trouble{bus: s.bus, what: "stream", about: []any{"stream", t.key.stream, "subscription", s.id}}
	count := firstPage
	if at.id.Compare(to) < 0 {
		s.lookAt(t, &at)
	}
	for at.id.Compare(to) < 0 {
		page, err := t.log.Range(s.ctx, t.key.stream, at.id.Next(), to, count, false)
		if s.ctx.Err() != nil {
			return at, false
		}
		if err != nil {
			if !trouble.wait(s.ctx, s.bus.redisError("read", t.key.stream, err)) {
				return at, false
			}
			continue
		}
		trouble.over()
		for _, entry := range page {
			at.saw(entry.ID)
			if !s.hear(t.key, at, s.bus.decode(t.key.stream, entry)) {
				return at, false
			}
			s.reached(t.key, at)
		}
		if len(page) < count {
			s.lookAt(t, &at)
			break
		}
		count = nextPage(count, page)
	}
	return at, s.ctx.Err() == nil
}

// lookAt finds out what is gone that the subscription has not heard. Who may not ask reads on all the same.
func (s *subscription) lookAt(t *tail, at *spot) {
	info, err := t.log.Info(s.ctx, t.key.stream)
	if err != nil {
		return
	}
	before := at.id
	if missed, reason := at.missed(info); missed != 0 {
		s.miss(t.key.gap(reason, before, missed))
	}
	s.reached(t.key, *at)
}

// miss tells of a gap. One of copies is none: what they are copies of is heard from Redis.
func (s *subscription) miss(g *Gap) {
	if g.Local && s.bus.redis != nil && !s.config.LocalOnly {
		return
	}
	s.running.Lock()
	defer s.running.Unlock()
	if s.ctx.Err() != nil {
		return
	}
	s.bus.logger.Warn("subscription has missed events", "subscription", s.id, "stream", g.Stream, "reason", g.Reason, "after", g.After, "missed", g.Missed)
	if s.config.Gap != nil {
		s.config.Gap(*g)
	}
}

// hear calls the function with an event that is wanted; false when the subscription has ended, and it was not called.
func (s *subscription) hear(key tailKey, at spot, d wire.Decoded) (ok bool) {
	number, spooled := s.bus.spool.numberOf(&d)
	if key.local && d.Position != "" && !spooled && !s.config.LocalOnly {
		return true // a copy of what comes from Redis
	}
	if !pattern.MatchAny(s.config.Patterns, d.Type) {
		return true
	}
	s.running.Lock()
	defer s.running.Unlock()
	if s.ctx.Err() != nil {
		return false
	}
	if spooled && !s.spooled.add(number) {
		return true
	}
	r := &heard{Record: recordAt(&d, place{at.id, key.stream, key.local}), by: s, key: key, at: at}
	r.Header, r.Data = maps.Clone(r.Header), bytes.Clone(r.Data) // each subscription has its own
	if err := s.call(context.WithValue(withCause(s.ctx, &r.Event), recordKey{}, r), r.Event); err != nil && s.ctx.Err() == nil {
		s.bus.logger.Warn("subscription did not handle an event", "subscription", s.id, "type", r.Type, "id", r.ID, "err", err)
	}
	return true
}

func (s *subscription) call(ctx context.Context, e Event) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return s.fn(ctx, e)
}

func (b *Bus) unsubscribe(id string) error {
	b.mu.Lock()
	s := b.subscriptions[id]
	b.mu.Unlock()
	if s == nil {
		return fmt.Errorf("%w: %s", ErrUnknownSubscription, id)
	}
	s.cancel()
	b.forget(s)
	return nil
}

func (b *Bus) forget(s *subscription) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.subscriptions, s.id)
}

// close ends the subscription and waits for its function.
func (s *subscription) close() {
	s.cancel()
	s.loops.Wait()
}
