package group

import (
	"context"
	"slices"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

const beatEvery = redisstream.BeatEvery

// beatSoon asks for a beat now: it has to be known whether deliveries may begin, or somebody is to know
// something.
func (m *membership) beatSoon() {
	select {
	case m.kick <- struct{}{}:
	default: // one is asked for already
	}
}

// beatLoop beats at one stream every 2 s, or less often while it rests, and has deferred deliveries
// moved when they are due. It waits for nothing but the server's answer: whoever does not beat is taken
// over from.
func (c *Consumer) beatLoop(m *membership) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var next time.Time // of the beats
	for {
		select {
		case <-c.tended.Done():
			return
		case <-timer.C:
		case <-m.kick:
			next = time.Time{}
		case <-m.dues.changed:
		}
		if now := time.Now(); !now.Before(next) {
			next = now.Add(beatEvery)
			if c.wasJoined(m) { // also while its group is looked for: what runs here is not to be taken over
				next = now.Add(c.beat(m))
				c.holdings.releaseSubjects(time.Now())
			}
		}
		if m.dues.take(time.Now()) {
			c.promote(m)
		}
		timer.Reset(max(time.Millisecond, min(time.Until(next), m.dues.in(time.Now()))))
	}
}

// freshMargin is how long after its next beat was due a consumer may still begin deliveries of the
// stream: peers take over lateAfter then at the earliest, and a handler needs a moment to start. Whoever
// could not beat for so long, since it stood still or was cut off, must not begin what peers may have
// begun.
const freshMargin = lateAfter - 500*time.Millisecond

// freshen notes a beat that was answered. Where the last one is too long ago, what is held is looked at
// first; then what waited for the beat goes on.
func (c *Consumer) freshen(m *membership, sent time.Time, say redisstream.Say) {
	if before := m.fresh.Load(); before != 0 && sent.UnixNano() > before {
		now := time.Now().UnixNano() // first: what is held from now on is not among what is looked at
		m.lapsed.Store(now)
		c.lapsed.Store(now)
		held := c.holdings.heldLong(time.Now())[m.stream]
		gone, err := c.log.Renew(c.tended, c.self, m.stream, held)
		for _, ref := range gone {
			c.loseLease(ref)
		}
		c.noteStep(m, stepRenew, err)
		if err != nil {
			return // the next beat tries again; at once, it would spin where the group is gone
		}
	}
	m.fresh.Store(sent.Add(say.Next + freshMargin).UnixNano())
	if say.Next == beatEvery {
		c.holdings.freshen(m)
	}
}

// beat says to the group of one stream that this consumer lives, takes what there is to take, and
// returns when to beat next.
func (c *Consumer) beat(m *membership) (next time.Duration) {
	ctx, cancel := context.WithTimeout(c.tended, settleTimeout)
	defer cancel()
	say := c.say(m)
	started := time.Now()
	b, err := c.log.Beat(ctx, c.self, m.stream, say)
	if err != nil || time.Since(started) > beatTimeout {
		m.watch.disturbed()
	}
	c.noteBeat(m, err)
	if err != nil {
		return beatEvery
	}
	m.heard(say, b)
	c.freshen(m, started, say)
	c.setPatterns(m, b.Patterns)
	c.heardPause(m, b.Paused, started)
	if !b.Full {
		m.passOnSoon(true)
	}
	if c.reading.Err() != nil {
		return beatEvery // a consumer that stops takes nothing over
	}
	dead := m.watch.dead(b, time.Now())
	c.tryParked(m)
	if say.AllPeers {
		c.inherit(m, b.Peers, dead)
		c.share(m, b.Peers, dead)
		c.follow(ctx, m, b, living(b.Peers, dead))
	}
	if missing(c.patterns(m.stream), c.groupPatterns(m).Set) {
		c.rejoin(m.stream) // the server has forgotten what the group takes
	}
	if (len(dead) > 0 || b.Waiting > 0) && c.Sick() == nil && m.taking.CompareAndSwap(false, true) {
		c.loops.Start("take over", func() {
			defer m.taking.Store(false)
			c.takeOver(m, dead, b.Waiting > 0)
		})
	}
	return untilNext(say.Next, started, c.host.Started)
}

// noteBeat keeps what became of the last beat, for health, and says it where that is news: that Redis
// is away others say, and for the whole process.
func (c *Consumer) noteBeat(m *membership, err error) {
	c.mu.Lock()
	before := m.trouble
	m.trouble = err
	if err == nil || before == nil {
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
			"err", c.shape("beat in group "+c.cfg.Group+" of", m.stream, err))
	case err == nil && before != nil && known != redisstream.Away && known != redisstream.Lost:
		c.logger.Info("consumer can say again that it lives", "stream", m.stream)
	}
}

// missing reports whether some pattern is not in the set.
func missing(patterns, set []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return !slices.Contains(set, p) })
}

func (c *Consumer) rejoin(stream string) {
	if err := c.join(c.reading, stream, false); err != nil && !isAway(err) && c.reading.Err() == nil {
		c.logger.Error("consumer can't join its group again", "stream", stream, "err", c.joinError(stream, err))
	}
}
