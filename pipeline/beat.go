package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// peerWatch decides which peers of a group are dead. A peer counts as dead when its beat has not moved during a calm time
// of ours: three beats that were answered in time by one and the same run of the server. So a stall, a restart or a
// failover delays taking over instead of starting it.
type peerWatch struct {
	run   string    // of the server
	calm  time.Time // since when our beats have been answered in time
	peers map[string]peerSeen
}

// peerSeen is the last beat of a peer that was seen, and since when it is the same.
type peerSeen struct {
	beat  int64
	since time.Time
}

const (
	// deadAfter is three beats.
	deadAfter = 3 * beatEvery
	// beatTimeout is how soon a beat must be answered to count as in time.
	beatTimeout = time.Second
)

// disturbed notes that a beat was not answered in time.
func (w *peerWatch) disturbed() { w.calm = time.Time{} }

// dead notes a beat that was answered and returns the peers whose deliveries may be taken over.
func (w *peerWatch) dead(b redisstream.Beat, now time.Time) []redisstream.Peer {
	if w.calm.IsZero() || w.run != b.Run {
		w.calm, w.run = now, b.Run
	}
	seen := make(map[string]peerSeen, len(b.Peers))
	var dead []redisstream.Peer
	for _, p := range b.Peers {
		s, known := w.peers[p.Name]
		if !known || s.beat != p.Beat {
			s = peerSeen{beat: p.Beat, since: now}
		}
		seen[p.Name] = s
		still := min(now.Sub(s.since), now.Sub(w.calm))
		if p.Beat == redisstream.Left || still >= deadAfter {
			dead = append(dead, p)
		}
	}
	w.peers = seen
	return dead
}

// beatSoon asks for a beat now: something was deferred, and the beat tells when it is due; or it has
// to be known whether deliveries may begin.
func (m *membership) beatSoon() {
	select {
	case m.kick <- struct{}{}:
	default: // one is asked for already
	}
}

// beatLoop beats at one stream every 2 s, and when a deferred delivery is due there. It waits for
// nothing but the server's answer: whoever does not beat is taken over from.
func (c *consumer) beatLoop(m *membership) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-c.tended.Done():
			return
		case <-timer.C:
		case <-m.kick:
		}
		started, wait := time.Now(), beatEvery
		if c.wasJoined(m) { // also while its group is looked for: what runs here is not to be taken over
			if due := c.beat(m); due >= 0 {
				wait = min(wait, max(due, time.Millisecond))
			}
			c.holdings.releaseSubjects(time.Now())
		}
		timer.Reset(max(time.Millisecond, wait-time.Since(started)))
	}
}

// freshFor is how long after a beat was sent deliveries of its stream may begin: peers take over after
// deadAfter at the earliest, and a handler needs a moment to start. Whoever could not beat for so long,
// since it stood still or was cut off, must not begin what peers may have begun.
const freshFor = deadAfter - 500*time.Millisecond

// freshen notes a beat that was answered. Where the last one is too long ago, what is held is looked at
// first; then what waited for the beat goes on.
func (c *consumer) freshen(m *membership, sent time.Time) {
	if before := m.fresh.Load(); before != 0 && sent.UnixNano() > before {
		now := time.Now().UnixNano() // first: what is held from now on is not among what is looked at
		m.lapsed.Store(now)
		c.lapsed.Store(now)
		held := c.holdings.heldLong(time.Now())[m.stream]
		gone, err := c.bus.log.Renew(c.tended, c.self, m.stream, held)
		for _, ref := range gone {
			c.loseLease(ref)
		}
		if err != nil {
			return // the next beat tries again; at once, it would spin where the group is gone
		}
	}
	m.fresh.Store(sent.Add(freshFor).UnixNano())
	c.holdings.freshen(m)
}

// Member is what a consumer says of itself, beside its beat.
type Member struct {
	Host     string    `json:"host"`
	PID      int       `json:"pid"`
	Version  string    `json:"version"`
	Since    time.Time `json:"since"`
	InFlight int       `json:"inFlight"`
	Handled  int64     `json:"handled"` // deliveries since it began
	Failed   int64     `json:"failed"`
	Patterns []string  `json:"patterns"`
	Sick     *Sick     `json:"sick,omitempty"` // it has stopped itself; nil: it works

	TimeoutSeconds float64 `json:"timeoutSeconds,omitempty"` // Policy.Timeout; 0: none, or not known
}

func (c *consumer) about() string {
	m := Member{
		Host: hostname(), PID: os.Getpid(), Version: c.bus.cfg.Version, Since: c.begun.UTC(),
		InFlight: c.holdings.inFlight(), Handled: c.handled.Load(), Failed: c.failed.Load(),
		Patterns: c.cfg.Patterns, Sick: c.sick(), TimeoutSeconds: c.cfg.Policy.Timeout.Seconds(),
	}
	text, _ := json.Marshal(m) // strings and numbers always marshal
	return string(text)
}

// beat says to the group of one stream that this consumer lives, takes what there is to take, and
// returns when the next deferred delivery is due (negative: none is).
func (c *consumer) beat(m *membership) (due time.Duration) {
	ctx, cancel := context.WithTimeout(c.tended, settleTimeout)
	defer cancel()
	started := time.Now()
	b, err := c.bus.log.Beat(ctx, c.self, m.stream, redisstream.Say{About: c.about(), Idle: c.holdings.isIdle()})
	if err != nil || time.Since(started) > beatTimeout {
		m.watch.disturbed()
	}
	c.noteBeat(m, err)
	if err != nil {
		return -1
	}
	c.freshen(m, started)
	c.setPatterns(m, b.Patterns)
	c.heardPause(m, b.Paused, started)
	if !b.Full {
		m.passOnSoon(true)
	}
	if c.reading.Err() != nil {
		return b.NextDue // a consumer that stops takes nothing over
	}
	dead := m.watch.dead(b, time.Now())
	c.inherit(m, b.Peers, dead)
	c.tryParked(m)
	c.share(m, b.Peers, dead)
	c.follow(ctx, m, b, living(b.Peers, dead))
	if missing(c.patterns(m.stream), b.Patterns.Set) {
		c.rejoin(m.stream) // the server has forgotten what the group takes
	}
	if (len(dead) > 0 || b.Waiting > 0) && c.sick() == nil && m.taking.CompareAndSwap(false, true) {
		c.loops.start("take over", func() {
			defer m.taking.Store(false)
			c.takeOver(m, dead, b.Waiting > 0)
		})
	}
	return b.NextDue
}

// living names the peers that are not dead and have not left.
func living(peers, dead []redisstream.Peer) (names []string) {
	for _, p := range peers {
		if !slices.Contains(dead, p) {
			names = append(names, p.Name)
		}
	}
	return names
}

// noteBeat keeps what became of the last beat, for health, and says it where that is news: that Redis
// is away others say, and for the whole process.
func (c *consumer) noteBeat(m *membership, err error) {
	c.mu.Lock()
	before := m.trouble
	m.trouble = err
	if err == nil {
		m.beaten = time.Now()
	}
	c.mu.Unlock()
	if c.tended.Err() != nil {
		return
	}
	class, known := redisstream.Classify(err), redisstream.Classify(before)
	switch {
	case err != nil && class != known && class != redisstream.Away && class != redisstream.Lost:
		c.logger.Error("consumer can't say that it lives: nothing of the stream begins until it can", "stream", m.stream,
			"err", c.bus.redisError("beat in group "+c.cfg.Group+" of", m.stream, err))
	case err == nil && before != nil && known != redisstream.Away && known != redisstream.Lost:
		c.logger.Info("consumer can say again that it lives", "stream", m.stream)
	}
}

// missing reports whether some pattern is not in the set.
func missing(patterns, set []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return !slices.Contains(set, p) })
}

func (c *consumer) rejoin(stream string) {
	if err := c.join(c.reading, stream, false); err != nil && !errors.Is(err, ErrUnavailable) && c.reading.Err() == nil {
		c.logger.Error("consumer can't join its group again", "stream", stream, "err", err)
	}
}
