package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

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
// loading or out of memory, and a user without the right to append answer PING, and take no event.
type link struct {
	bus   *Bus
	check chan struct{} // asks for a check now

	running atomic.Bool // its loop runs, and so does the bus

	mu        sync.Mutex // guards what follows
	state     State
	since     time.Time // of the present state
	connected bool
	failures  int
	failing   time.Time // since when
	lastError error
	refusal   error // why a server that is there takes no events; nil: it takes them
	told      bool  // that it takes none, in the log
	taken     int   // how many checks in a row it would have taken
	trips     roundTrips
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

// unavailable is the error of a call that can't be served in this state.
func (l *link) unavailable(op string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.lastError
	if err == nil {
		err = context.DeadlineExceeded
	}
	return l.bus.redisError(op, "", err)
}

// first makes the first check. Only an error that a person must mend is returned.
func (l *link) first(ctx context.Context) error {
	latency, err := l.ping(ctx, firstTimeout)
	if redisstream.Classify(err) == redisstream.Denied {
		return l.bus.redisError("connect to redis", "", err)
	}
	if err != nil {
		l.mu.Lock()
		l.failures = outageFailures // there is no good time that an outage would have to outlast
		l.failing = time.Now().Add(-outageMinimum)
		l.mu.Unlock()
	}
	l.note(latency, err)
	if err == nil && !l.bus.cfg.NoPublish {
		l.note(l.ping(ctx, checkTimeout)) // the first one connected: only this one says how far the server is
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
		pause := checkEvery
		switch l.note(l.ping(l.bus.stopped, checkTimeout)); {
		case l.bus.isAway():
			pause = checkSoon
		case !l.isConnected():
			pause = 0 // whether it is away is to be known soon
		}
		ticker.Reset(pause)
		if pause < checkEvery && !sleep(l.bus.stopped, checkSoon/5) { // whoever suspects must not make it spin
			return
		}
	}
}

func (l *link) ping(ctx context.Context, timeout time.Duration) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if l.bus.cfg.NoPublish {
		return l.bus.redis.PingRead(ctx)
	}
	return l.bus.redis.Ping(ctx)
}

// refused returns why a server that is there takes no events; nil where it does, or is away.
func (l *link) refused() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refusal
}

func (l *link) isConnected() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.connected
}

// roundTrip is how far the server is; 0: it was never reached.
func (l *link) roundTrip() time.Duration {
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

// isFar reports whether a round trip takes long.
func (l *link) isFar() bool { return l.roundTrip() >= farAway }

// note takes the result of a check into account.
func (l *link) note(latency time.Duration, err error) {
	if l.bus.stopped.Err() != nil {
		return // the check was cut short
	}
	l.mu.Lock()
	from, failures := l.state, l.failures
	l.lastError = err
	switch class := redisstream.Classify(err); {
	case class == redisstream.Away, class == redisstream.ReadOnly:
		l.connected = class == redisstream.ReadOnly
		if l.failures == 0 {
			l.failing = time.Now()
		}
		l.failures++
		if l.failures >= outageFailures && time.Since(l.failing) >= outageMinimum {
			if l.state = StateUnavailable; l.bus.spool != nil {
				l.state = StateSpooling
			}
			l.refusal, l.told = nil, false // the state says it
		}
	default:
		l.connected, l.failures, l.refusal = true, 0, err
		l.trips.add(latency)
		if l.state = StateDurable; l.bus.spool != nil && !l.bus.spool.isEmpty() {
			l.state = StateDraining
		}
	}
	to, back, refusal := l.state, failures > 0 && l.failures == 0, l.refusal
	said := l.told
	switch {
	case refusal != nil:
		l.told, l.taken = true, 0
	case err == nil:
		if l.taken++; l.taken == takenAgain {
			l.told = false
		}
	}
	again := said && !l.told && err == nil
	if from != to {
		l.since = time.Now()
	}
	l.mu.Unlock()
	switch {
	case refusal != nil && !said:
		l.bus.logger.Error("redis takes no events", "err", l.bus.redisError("publish", "", refusal))
	case again:
		l.bus.logger.Info("redis takes events again", "state", to)
	}
	if back {
		l.bus.suspectRewind() // it may have been started again, or be another one
	}
	l.changed(from, to, err)
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
		l.bus.loops.start("announce", func() { l.bus.announceState(from, to, cause) })
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
	ctx, cancel := context.WithTimeout(b.stopped, settleTimeout)
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
