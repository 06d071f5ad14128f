package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/loop"
	"github.com/rishi-platform/millrace/internal/redisstream"
)

const (
	checkEvery     = time.Second            // while Redis answers
	checkSoon      = 500 * time.Millisecond // while it is away
	checkTimeout   = 1200 * time.Millisecond
	firstTimeout   = 3 * time.Second // of the first check, which connects: names, TLS and the password take their round trips
	takenAgain     = 3               // so many checks in a row must succeed before the log says that events are taken again
	outageFailures = 3               // so many checks in a row must fail …
	outageMinimum  = 2 * time.Second // … over so long, before Redis counts as away: a stall is not an outage
	// A black hole is an outage after 5 s at most: 1 s until the next check, three that wait in vain, and two short pauses.
)

// link watches the way to Redis and keeps the state of the bus. Its checks are appends that store nothing: a replica, a server that is
// loading or out of memory, and a user without the right to append answer PING, and take no event. In Cluster each shard has its own; the bus as a whole
// is away when all are.
type link struct {
	bus   *Bus
	check chan struct{} // asks for a check now

	running atomic.Bool                                     // its loop runs, and so does the bus
	partly  atomic.Pointer[map[redisstream.Shard]time.Time] // shards that are away while others are not, since when; nil: none is

	mu     sync.Mutex // guards what follows
	state  State
	since  time.Time // of the present state
	shards map[redisstream.Shard]*shard
	trips  roundTrips
}

// shard is what is known of a server.
type shard struct {
	connected bool
	failures  int
	failing   time.Time // since when
	away      bool
	lastError error
	refusal   error // why a server that is there takes no events; nil: it takes them
	told      bool  // that it takes none, in the log
	taken     int   // how many checks in a row it would have taken
}

// checked is the result of a check.
type checked struct {
	latency time.Duration
	err     error
}

// note takes the result of a check into account.
func (s *shard) note(err error) {
	s.lastError = err
	switch class := redisstream.Classify(err); class {
	case redisstream.Away, redisstream.ReadOnly:
		s.connected = class == redisstream.ReadOnly
		if s.failures == 0 {
			s.failing = time.Now()
		}
		s.failures++
		if s.failures >= outageFailures && time.Since(s.failing) >= outageMinimum {
			s.away, s.refusal, s.told = true, nil, false // the state says it
		}
	default:
		s.connected, s.failures, s.away, s.refusal = true, 0, false, err
	}
}

// isUndecided reports whether it is to be known soon whether the server is away.
func (s *shard) isUndecided() bool { return s.failures > 0 && !s.away }

// tell returns what the log is to say after a check: that the server takes no events, or takes them again.
func (s *shard) tell(err error) (refuses, again bool) {
	said := s.told
	switch {
	case s.refusal != nil:
		s.told, s.taken = true, 0
		return !said, false
	case err == nil:
		if s.taken++; s.taken == takenAgain {
			s.told = false
		}
	}
	return false, said && !s.told && err == nil
}

func (l *link) current() State {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state
}

// suspect asks for a check soon: somebody met an error.
func (l *link) suspect() {
	select {
	case l.check <- struct{}{}:
	default: // one is asked for already
	}
}

// Suspect is suspect, for consumers.
func (l *link) Suspect() { l.suspect() }

// unavailable is the error of a call that can't be served in this state.
func (l *link) unavailable(op string) error {
	err := l.trouble()
	if err == nil {
		err = context.DeadlineExceeded
	}
	return l.bus.redisError(op, "", err)
}

// trouble is the last error of a server that does not answer, or of any.
func (l *link) trouble() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var last error
	for _, name := range slices.Sorted(maps.Keys(l.shards)) {
		if s := l.shards[name]; s.lastError != nil && (last == nil || s.away) {
			last = s.lastError
		}
	}
	return last
}

// first makes the first check. Only an error that a person must mend is returned.
func (l *link) first(ctx context.Context) error {
	results := l.look(ctx, firstTimeout)
	for name, r := range results {
		if redisstream.Classify(r.err) == redisstream.Denied {
			return l.bus.redisError("connect to redis", "", r.err)
		}
		if r.err != nil {
			l.mu.Lock()
			l.shards[name] = &shard{failures: outageFailures, failing: time.Now().Add(-outageMinimum)} // there is no good time that an outage would have to outlast
			l.mu.Unlock()
		}
	}
	l.note(results)
	if !l.bus.isAway() && !l.bus.cfg.NoPublish {
		l.note(l.look(ctx, checkTimeout)) // the first one connected: only this one says how far the server is
	}
	return nil
}

// loop checks from time to time, and at once when somebody met an error.
func (l *link) loop() {
	l.running.Store(true)
	first := checkEvery
	if !l.isConnected() {
		first = checkSoon
	}
	ticker := time.NewTimer(first)
	defer ticker.Stop()
	for {
		select {
		case <-l.bus.stopped.Done():
			return
		case <-ticker.C:
		case <-l.check:
		}
		l.note(l.look(l.bus.stopped, checkTimeout))
		pause := l.pause()
		ticker.Reset(pause)
		if pause < checkEvery && !loop.Sleep(l.bus.stopped, checkSoon/5) { // whoever suspects must not make it spin
			return
		}
	}
}

// pause is how long until the next check.
func (l *link) pause() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	pause := checkEvery
	for _, s := range l.shards {
		switch {
		case s.isUndecided():
			return 0
		case s.away:
			pause = checkSoon
		}
	}
	return pause
}

// look checks each shard.
func (l *link) look(ctx context.Context, timeout time.Duration) map[redisstream.Shard]checked {
	results := map[redisstream.Shard]checked{}
	// A node from which nothing comes may be the one that is asked which shards there are: the checks have their time to themselves.
	naming, cancel := context.WithTimeout(ctx, timeout/3)
	names, err := l.bus.redis.Shards(naming)
	cancel()
	if err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		results[""] = checked{err: err}
		for name := range l.shards {
			delete(results, "")
			results[name] = checked{err: err}
		}
		return results
	}
	ctx, cancel = context.WithTimeout(ctx, timeout)
	defer cancel()
	ping := l.bus.redis.PingShard
	if l.bus.cfg.NoPublish {
		ping = l.bus.redis.PingReadShard
	}
	var mu sync.Mutex
	var checks sync.WaitGroup
	for _, name := range names {
		checks.Go(func() {
			latency, err := ping(ctx, name)
			if errors.Is(err, redisstream.ErrNoSlots) {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			results[name] = checked{latency, err}
		})
	}
	checks.Wait()
	return results
}

// refused returns why all servers that are there take no events; nil where one does, or all are away.
func (l *link) refused() (err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.shards {
		switch {
		case s.away:
		case s.refusal == nil:
			return nil
		default:
			err = s.refusal
		}
	}
	return err
}

// refusedBy returns why a server that is there takes no events; nil where it does, or is away.
func (l *link) refusedBy(name redisstream.Shard) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.shards[name]; s != nil {
		return s.refusal
	}
	return nil
}

// refusals returns why shards of a cluster that are there take no events.
func (l *link) refusals() map[redisstream.Shard]error {
	l.mu.Lock()
	defer l.mu.Unlock()
	refusals := map[redisstream.Shard]error{}
	for name, s := range l.shards {
		if s.refusal != nil && name != "" {
			refusals[name] = s.refusal
		}
	}
	return refusals
}

// isConnected reports whether any server answers.
func (l *link) isConnected() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.shards {
		if s.connected {
			return true
		}
	}
	return false
}

// RoundTrip is how far the server is; 0: it was never reached.
func (l *link) RoundTrip() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.trips.shortest()
}

// roundTrips are those of the last checks. The shortest of them says how far the server is: the others
// had to connect, or met a server at work.
type roundTrips struct {
	last [8]time.Duration
	n    int // how many there were
}

func (r *roundTrips) add(trip time.Duration) {
	r.last[r.n%len(r.last)] = trip
	r.n++
}

// shortest returns 0 where none is known.
func (r *roundTrips) shortest() time.Duration {
	if r.n == 0 {
		return 0
	}
	return slices.Min(r.last[:min(r.n, len(r.last))])
}

// note takes the results of checks into account.
func (l *link) note(results map[redisstream.Shard]checked) {
	if l.bus.stopped.Err() != nil {
		return // the checks were cut short
	}
	var say []func()
	var cause error
	back, good, all := false, false, true
	partly := map[redisstream.Shard]time.Time{}
	l.mu.Lock()
	from := l.state
	for name, s := range l.shards {
		if _, there := results[name]; !there { // a replica has taken over, say
			back = back || s.failures > 0
			delete(l.shards, name)
		}
	}
	fastest := time.Duration(0)
	for _, name := range slices.Sorted(maps.Keys(results)) {
		r := results[name]
		s := l.shards[name]
		if s == nil {
			s = &shard{}
			l.shards[name] = s
		}
		failed, was := s.failures > 0, s.away
		s.note(r.err)
		if s.away {
			partly[name] = s.failing
		} else {
			all = false
		}
		if s.failures > 0 {
			cause = r.err
		} else {
			back, good = back || failed, true
			if fastest == 0 || r.latency < fastest {
				fastest = r.latency
			}
		}
		if s.away != was && name != "" {
			say = append(say, func() { l.sayShard(name, !was, r.err) })
		}
		refuses, again := s.tell(r.err)
		if refusal := s.refusal; refuses {
			say = append(say, func() {
				l.bus.logger.Error("redis takes no events", append(shardAttr(name), "err", l.bus.redisError("publish", "", refusal))...)
			})
		}
		if again {
			say = append(say, func() {
				l.bus.logger.Info("redis takes events again", append(shardAttr(name), "state", l.current())...)
			})
		}
	}
	switch {
	case all:
		if l.state = StateUnavailable; l.bus.spool != nil {
			l.state = StateSpooling
		}
	case good:
		l.trips.add(fastest)
		if l.state = StateDurable; l.bus.spool != nil && !l.bus.spool.isEmpty() {
			l.state = StateDraining
		}
		cause = nil
	}
	to := l.state
	if from != to {
		l.since = time.Now()
	}
	before := l.partly.Load()
	if all || len(partly) == 0 {
		l.partly.Store(nil)
	} else {
		l.partly.Store(&partly)
	}
	l.mu.Unlock()
	for _, f := range say {
		f()
	}
	if back {
		l.bus.suspectRewind() // it may have been started again, or be another one
	}
	if before != nil && l.bus.spool != nil {
		l.bus.spool.wake()
	}
	l.changed(from, to, cause)
}

// sayShard says that a shard of a cluster is away, or is back.
func (l *link) sayShard(name redisstream.Shard, away bool, err error) {
	if away {
		l.bus.logger.Error("shard of the cluster is away", "shard", name, "err", err)
	} else {
		l.bus.logger.Info("shard of the cluster is back", "shard", name)
	}
}

func shardAttr(name redisstream.Shard) []any {
	if name == "" {
		return nil
	}
	return []any{"shard", name}
}

// outlook is one look at the state: where several events are concerned, all of them must meet the same.
type outlook struct {
	bus    *Bus
	state  State
	partly *map[redisstream.Shard]time.Time
}

// isAway reports whether a shard is away.
func (o outlook) isAway(name redisstream.Shard) bool {
	if o.partly == nil {
		return o.state.isAway()
	}
	_, away := (*o.partly)[name]
	return away
}

// look returns what the bus can promise now.
func (b *Bus) look() outlook {
	o := outlook{bus: b, state: b.State()}
	if b.link != nil {
		o.partly = b.link.partly.Load()
	}
	return o
}

// of is what the bus can promise for a stream.
func (o outlook) of(stream string) State {
	if o.partly == nil || o.state.isAway() || !o.isAway(o.bus.redis.ShardOf(stream)) {
		return o.state
	}
	if o.bus.spool != nil {
		return StateSpooling
	}
	return StateUnavailable
}

// drained notes that the spool is empty.
func (l *link) drained() {
	l.mu.Lock()
	from := l.state
	if from == StateDraining {
		l.state, l.since = StateDurable, time.Now()
	}
	to := l.state
	l.mu.Unlock()
	l.changed(from, to, nil)
}

// changed says that the state has changed, if it has.
func (l *link) changed(from, to State, cause error) {
	if from == to {
		return
	}
	l.bus.logger.Log(context.Background(), levelOf(to), "state of the bus changed", "from", from, "to", to, "cause", cause)
	if l.bus.cfg.Hooks.State != nil {
		l.bus.cfg.Hooks.State(from, to, cause)
	}
	if l.bus.spool != nil {
		l.bus.spool.wake()
		l.bus.spool.tell()
	}
	if l.running.Load() && to != StateUnavailable && !l.bus.cfg.NoPublish { // what could not be kept is not published
		l.bus.loops.Start("announce", func() { l.bus.announceState(from, to, cause) })
	}
}

// announceState publishes that the state of this bus has changed: system.bus.spooling, draining, durable.
func (b *Bus) announceState(from, to State, cause error) {
	about := struct {
		Instance string `json:"instance"`
		From     State  `json:"from"`
		To       State  `json:"to"`
		Cause    string `json:"cause,omitempty"`
	}{Instance: b.instance, From: from, To: to}
	if cause != nil {
		about.Cause = cause.Error()
	}
	data, _ := json.Marshal(about) // strings always marshal
	ctx, cancel := context.WithTimeout(b.stopped, announceTimeout)
	defer cancel()
	if _, err := b.publishAs(ctx, PublishOptions{}, []Event{{Type: "system.bus." + string(to), Subject: b.instance, Data: data}}, true); err != nil && ctx.Err() == nil {
		b.logger.Warn("change of the state could not be published", "to", to, "err", err)
	}
}

// hintAway is the way out of an outage.
const hintAway = "is the server up and its address right?"

// awayHint says what may heal a server that is away.
func awayHint(err error) string {
	if redis.HasErrorPrefix(err, "READONLY") {
		return "it is a replica: name its master, or wait until a failover has ended"
	}
	return hintAway
}

// deniedHint says what a person must mend.
func deniedHint(err error) string {
	text := err.Error()
	switch {
	case errors.Is(err, redisstream.ErrTooOld):
		return "upgrade the server"
	case strings.HasPrefix(text, "DENIED"):
		return "give the server a password (requirepass, or ACL users), or connect from the machine that it runs on"
	case strings.HasPrefix(text, "WRONGTYPE"):
		return "the key holds another type: rename it, or use another namespace"
	case strings.HasPrefix(text, "NOPERM"), strings.Contains(text, "ACL failure in script"): // it names the right
		return "give the user this right, see ACL SETUSER"
	case strings.Contains(text, "The user executing the script"):
		return "ACL LOG names the right that is missing, docs/operations.md all that are needed"
	case strings.HasPrefix(text, "WRONGPASS"), strings.HasPrefix(text, "NOAUTH"), strings.Contains(text, "password"):
		return "check user and password in the redis URL"
	}
	return ""
}

func levelOf(s State) slog.Level {
	if s == StateUnavailable || s == StateSpooling {
		return slog.LevelError
	}
	return slog.LevelInfo
}
