package group

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// Pause says why a group does not take events of a stream now. It is pipeline.Pause.
type Pause struct {
	By          string    `json:"by"`
	Reason      string    `json:"reason"`
	Since       time.Time `json:"since"`
	Consumer    string    `json:"consumer,omitempty"`
	TriedAt     time.Time `json:"triedAt,omitzero"`
	Fingerprint string    `json:"fingerprint,omitempty"`
}

// The two values of Pause.By.
const (
	PausedByOperator = "operator"
	PausedByBreaker  = "breaker"
)

// ParsePause reads what is written about a pause; nil: the group is not paused.
func ParsePause(text string) *Pause {
	if text == "" {
		return nil
	}
	p := &Pause{By: PausedByOperator}
	if json.Unmarshal([]byte(text), p) != nil {
		p.Reason = text
	}
	return p
}

// Text is what is written about the pause.
func (p Pause) Text() string {
	text, _ := json.Marshal(p) // strings and times always marshal
	return string(text)
}

// heardPause takes what is written about the pause of the group at a stream, as an answer says that was
// asked for at the given time.
func (c *Consumer) heardPause(m *membership, text string, asked time.Time) {
	c.pausing(m, func(p *pausing) pauseEffect { return p.heard(text, asked) })
}

// trip pauses the group at a stream: its deliveries fail for one reason, and would all become dead
// letters.
func (c *Consumer) trip(m *membership, print string) {
	pause := Pause{
		By: PausedByBreaker, Reason: c.reasonOf(print), Since: time.Now().UTC(),
		Consumer: c.self.Name, Fingerprint: print,
	}
	e := c.pausing(m, func(p *pausing) pauseEffect { return p.tripped(pause, time.Now()) })
	if e.began {
		c.logger.Error("group is paused: nearly all deliveries fail for the same reason; one is tried from time to time",
			"stream", m.stream, "fingerprint", print, "reason", pause.Reason)
	}
}

// inherit makes this consumer the one that tries a delivery from time to time, where the one that did
// has died, has left, has stopped itself or has nothing to try; or leaves that to another one.
func (c *Consumer) inherit(m *membership, peers, dead []redisstream.Peer) {
	others := living(peers, dead)
	c.pausing(m, func(p *pausing) pauseEffect {
		if c.holdings.own.isPaused() {
			return p.leaveProbes()
		}
		m.parked = still(heldPaused, m.parked)
		canTry := len(m.parked) > 0 || len(others) == 0
		return p.looked(slices.Contains(others, p.pause.Consumer), canTry, time.Now())
	})
}

// probed takes the result of a delivery, if it was the one that was tried.
func (c *Consumer) probed(h *Holding, succeeded bool) {
	if !h.probe.Load() {
		return
	}
	c.pausing(h.of, func(p *pausing) (e pauseEffect) {
		if h.probe.Swap(false) {
			if e = p.probed(succeeded, time.Now()); !succeeded {
				e = p.leaveProbes()
			}
		}
		return e
	})
}

// pausing lets the pause of a stream take an event, and does what follows from it.
func (c *Consumer) pausing(m *membership, event func(*pausing) pauseEffect) pauseEffect {
	c.holdings.mu.Lock()
	before := m.pause.pause
	e := event(&m.pause)
	if e.ended {
		c.holdings.resume(m)
	}
	if e.began || e.ended {
		m.flow = streamFlow{} // a group that goes on is judged anew, and what fails in a pause says nothing new
	}
	replaced := e.began && c.holdings.replaceStop(&m.pause.pause, time.Now())
	c.holdings.mu.Unlock()
	if replaced {
		c.goOn("the group fails for the same reason, and is paused")
	}
	if e.ended {
		c.logger.Info("group goes on", "stream", m.stream)
	}
	if e.write != nil {
		c.tending.Start("pause", func() { c.writePause(m, *e.write, before) })
	}
	return e
}

// writePause writes what this consumer has decided about a pause, and publishes a change.
func (c *Consumer) writePause(m *membership, w pauseWrite, before Pause) {
	done, err := c.log.Pause(c.handling, m.stream, c.cfg.Group, w.seen, w.text)
	if err != nil {
		c.logger.Warn("peers could not be told about the pause of the group", "stream", m.stream, "err", err)
	}
	c.holdings.mu.Lock()
	m.pause.wrote(done, time.Now())
	c.holdings.mu.Unlock()
	switch {
	case !done:
		m.beatSoon() // it tells what holds
	case w.text == "":
		c.host.Announce(c.handling, m.stream, before, false)
	case w.seen == "":
		c.host.Announce(c.handling, m.stream, *ParsePause(w.text), true)
	}
}

// tryParked tries one of the parked deliveries if it is time. Where none is parked, the next one that
// is read is tried.
func (c *Consumer) tryParked(m *membership) {
	c.holdings.mu.Lock()
	defer c.holdings.mu.Unlock()
	c.holdings.tryParked(m, time.Now())
}

// mayRead reports whether the stream is to be read: what is read may begin, or a delivery is to be
// tried and none is here; and not too much of it is held here that nobody handles here.
func (c *Consumer) mayRead(m *membership) bool {
	c.holdings.mu.Lock()
	defer c.holdings.mu.Unlock()
	now := time.Now()
	if c.holdings.tooManyOthers(m) {
		return false
	}
	if own := &c.holdings.own; own.isPaused() {
		return m.isFresh(now) && own.mayProbe(now) && m.pause.pause.By != PausedByOperator
	}
	return m.isFresh(now) && (!m.pause.isPaused() || m.pause.mayProbe(now) && len(m.parked) == 0)
}
