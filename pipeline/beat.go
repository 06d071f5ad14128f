package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"sync"
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

// beatSoon asks for a beat now: something was deferred, and the beat tells when it is due.
func (c *consumer) beatSoon() {
	select {
	case c.kick <- struct{}{}:
	default: // one is asked for already
	}
}

// beatLoop beats every 2 s, and when a deferred delivery is due.
func (c *consumer) beatLoop() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-c.tended.Done():
			return
		case <-timer.C:
		case <-c.kick:
		}
		c.releaseSubjects()
		about := c.about()
		var mu sync.Mutex // guards what follows
		wait := beatEvery
		var found []finding
		c.eachStream(func(stream string) {
			due, of := c.beat(stream, about)
			mu.Lock()
			defer mu.Unlock()
			if due >= 0 {
				wait = min(wait, max(due, time.Millisecond))
			}
			if len(of.dead) > 0 || of.waiting {
				found = append(found, of)
			}
		})
		if len(found) > 0 {
			select {
			case c.found <- found:
			default: // takeOverLoop is at it; the next beat finds what is left
			}
		}
		timer.Reset(wait)
	}
}

// freshFor is how long after a beat was sent deliveries of its stream may begin: peers take over after deadAfter at the earliest, and a handler
// needs a moment to start.
const freshFor = deadAfter - 500*time.Millisecond

// freshEvery is how often a delivery that may not begin looks whether it may.
const freshEvery = 100 * time.Millisecond

// awaitFresh waits until this consumer is sure that it still has what it holds of a stream; false when ctx ends first. Whoever could not beat for so
// long that peers may have taken over, since it stood still or was cut off, must not begin what they have begun.
func (c *consumer) awaitFresh(ctx context.Context, of *membership) bool {
	for time.Now().UnixNano() > of.fresh.Load() {
		c.beatSoon()
		if !sleep(ctx, freshEvery) {
			return false
		}
	}
	return true
}

// freshen notes a beat that was answered. Where the last one is too long ago, what is held is looked at first.
func (c *consumer) freshen(stream string, of *membership, sent time.Time) {
	if before := of.fresh.Load(); before != 0 && sent.UnixNano() > before {
		held := c.window.heldLong(time.Now())[stream]
		gone, err := c.bus.log.Renew(c.tended, c.self, stream, held)
		for _, ref := range gone {
			c.loseLease(ref)
		}
		if err != nil {
			return // the next beat tries again
		}
	}
	of.fresh.Store(sent.Add(freshFor).UnixNano())
	c.mu.Lock()
	aside := of.aside
	of.aside = nil
	c.mu.Unlock()
	c.unpark(aside)
}

// putAside keeps a delivery that may not begin while Redis is away from holding up those that come from the spool. What comes from its stream then stays
// behind it. The next beat hands it out.
func (c *consumer) putAside(h *handed) bool {
	if !c.fallsBack() || h.ref.Spool || time.Now().UnixNano() <= h.of.fresh.Load() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(h.of.aside) == 0 && c.bus.State() != StateSpooling {
		return false
	}
	h.of.aside = append(h.of.aside, h)
	c.window.park(1)
	return true
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
}

func (c *consumer) about() string {
	m := Member{
		Host: hostname(), PID: os.Getpid(), Version: c.bus.cfg.Version, Since: c.begun.UTC(), InFlight: c.window.inFlight(),
		Handled: c.handled.Load(), Failed: c.failed.Load(), Patterns: c.cfg.Patterns,
	}
	text, _ := json.Marshal(m) // strings and numbers always marshal
	return string(text)
}

// beat says to one group that this consumer lives, and returns when the next deferred delivery is due (negative: none is) and what there
// is to take. It waits for nothing but the server: whoever does not beat is taken over from.
func (c *consumer) beat(stream, about string) (due time.Duration, found finding) {
	of := c.membership(stream)
	ctx, cancel := context.WithTimeout(c.tended, settleTimeout)
	defer cancel()
	started := time.Now()
	b, err := c.bus.log.Beat(ctx, c.self, stream, about)
	if err != nil || time.Since(started) > beatTimeout {
		of.watch.disturbed()
	}
	if err != nil {
		return -1, finding{}
	}
	c.freshen(stream, of, started)
	c.setPatterns(stream, b.Patterns)
	c.seePause(stream, b.Paused, false)
	if c.reading.Err() != nil {
		return b.NextDue, finding{} // a consumer that stops takes nothing over
	}
	of.breaker.tick(time.Now())
	c.inherit(stream, b.Peers)
	c.tryParked(stream)
	if missing(c.patterns(stream), b.Patterns.Set) {
		c.rejoin(stream) // the server has forgotten what the group takes
	}
	return b.NextDue, finding{stream, of.watch.dead(b, time.Now()), b.Waiting > 0}
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
