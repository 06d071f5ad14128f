package group

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/rishi-platform/millrace/internal/pattern"
	"github.com/rishi-platform/millrace/internal/redisstream"
)

// A consumer that has nothing to do in a stream rests there: it beats less often, the less often the
// more of the group do, and nothing of the stream begins before it has said that it rests no more. A
// fleet of 30 instances with 20 groups at 50 streams has 30,000 memberships, most of which have nothing to
// do most of the time. All of a group together beat about every 2 s then, so that somebody notices as
// soon as before when one of them has died: who rests holds nothing, and who holds something is
// watched by all.

const (
	// restAfter is how long a consumer must have held nothing of a stream before it rests there.
	restAfter = 10 * time.Second
	// restMost is the longest time between two beats.
	restMost = 15 * time.Second
	// sayEvery is how often a consumer says something new of itself where it rests.
	sayEvery = 30 * time.Second
	// lateSoon is how late the beat of a peer is that is watched: a beat may take a while.
	lateSoon = time.Second
	// restTick is the time at whose multiples those of a process beat that rest, so that they share round
	// trips: 1,000 memberships that beat every 14 s are 18 scripts at a time, under 1 ms of the server.
	restTick = 250 * time.Millisecond
)

// say is what the next beat says. From now on the membership rests, if that is what it says.
func (c *Consumer) say(m *membership) redisstream.Say {
	takes := c.groupPatterns(m)
	handlesAll := pattern.CoverAll(c.patterns(m.stream), takes.Set)
	c.mu.Lock()
	s := redisstream.Say{Next: beatEvery, Patterns: takes.Version, Read: m.highest}
	c.mu.Unlock()
	w, now := &c.holdings, time.Now()
	w.mu.Lock()
	paused := m.pause.isPaused() || w.own.isPaused()
	s.Idle, s.Holds = w.idle(), w.holdsOf(m.stream)
	s.AllPeers = s.Holds || !s.Idle || paused || m.failing || m.watched
	if s.Holds {
		m.used.Store(now.UnixNano())
	}
	quiet := now.UnixNano()-m.used.Load() >= int64(restAfter)
	// What peers let wait, since they do not handle its type, is to be noticed soon.
	if quiet && !s.AllPeers && handlesAll && !m.taking.Load() && c.reading.Err() == nil {
		s.Next = min(restMost, time.Duration(max(1, m.members))*beatEvery)
		m.resting.Store(s.Next > beatEvery)
	}
	w.mu.Unlock()
	about := c.host.About()
	if about != m.said && (s.Next == beatEvery || now.Sub(m.saidAt) >= sayEvery) {
		s.About = about
	}
	return s
}

// heard notes what a beat was answered.
func (m *membership) heard(say redisstream.Say, b redisstream.Beat) {
	switch {
	case say.About != "":
		m.said, m.saidAt = say.About, time.Now()
	case b.Unknown:
		m.said, m.saidAt = "", time.Time{}
	}
	m.members = b.Members
	m.watched = b.Failing || slices.ContainsFunc(b.Peers, func(p redisstream.Peer) bool {
		return p.Holds() || p.Due < -lateSoon
	})
	if m.watched && say.Next > beatEvery {
		m.beatSoon() // whoever is watched may be dead by now: the next beat is not to come in 15 s
	}
	m.strangers.Store(b.Strangers)
	if m.resting.Load() && b.Pending > 0 {
		m.stray.Store(true)
	}
}

// woken notes that there is something of the stream.
func (m *membership) woken(now time.Time) {
	m.used.Store(now.UnixNano())
	if m.resting.Load() {
		m.beatSoon()
	}
}

// untilNext is when to beat who has promised a beat within the given time. Those who rest do not all
// beat at the same time, but some of them, and others of another process, which began at another time.
func untilNext(promised time.Duration, now, began time.Time) time.Duration {
	if promised == beatEvery {
		return promised
	}
	next := now.Sub(began) + promised - rand.N(promised/8)
	return next.Truncate(restTick) - now.Sub(began)
}
