package pipeline

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// Pause says why a group does not take events of a stream now.
type Pause struct {
	By          string    `json:"by"` // PausedByOperator, PausedByBreaker
	Reason      string    `json:"reason"`
	Since       time.Time `json:"since"`
	Consumer    string    `json:"consumer,omitempty"`    // of the breaker: who tries the next delivery; empty: nobody yet
	TriedAt     time.Time `json:"triedAt,omitzero"`      // of the breaker: when one was tried last, and failed
	Fingerprint string    `json:"fingerprint,omitempty"` // of the breaker: of the failures
}

// The two values of Pause.By.
const (
	PausedByOperator = "operator"
	PausedByBreaker  = "breaker"
)

func parsePause(text string) *Pause {
	if text == "" {
		return nil
	}
	p := &Pause{By: PausedByOperator}
	if json.Unmarshal([]byte(text), p) != nil {
		p.Reason = text
	}
	return p
}

func (p Pause) text() string {
	text, _ := json.Marshal(p) // strings and times always marshal
	return string(text)
}

// The events that tell of pauses, in the stream "system".
const (
	typeGroupPaused  = "system.group.paused"
	typeGroupResumed = "system.group.resumed"
)

// PauseGroup keeps a group from taking events of a stream until ResumeGroup: its consumers hear of it within a beat (2 s), finish what they
// handle, and read no more. A pause by the breaker becomes one by the operator: nothing is tried any
// more. It reports false when the group is paused by an operator already.
func (b *Bus) PauseGroup(ctx context.Context, stream, group, reason string) (bool, error) {
	g, err := b.group(ctx, stream, group)
	if err != nil {
		return false, err
	}
	if now := parsePause(g.Paused); now != nil && now.By == PausedByOperator {
		return false, nil
	}
	pause := Pause{By: PausedByOperator, Reason: reason, Since: time.Now().UTC()}
	done, err := b.log.Pause(ctx, stream, group, g.Paused, pause.text())
	if done {
		b.announcePause(ctx, typeGroupPaused, stream, group, pause)
	}
	return done, b.redisError("pause group "+group+" of", stream, err)
}

// ResumeGroup ends a pause, whoever began it. It reports false when the group is not paused.
func (b *Bus) ResumeGroup(ctx context.Context, stream, group string) (bool, error) {
	for {
		g, err := b.group(ctx, stream, group)
		if err != nil || g.Paused == "" {
			return false, err
		}
		done, err := b.log.Pause(ctx, stream, group, g.Paused, "")
		if err != nil {
			return false, b.redisError("resume group "+group+" of", stream, err)
		}
		if done {
			b.announcePause(ctx, typeGroupResumed, stream, group, *parsePause(g.Paused))
			return true, nil
		}
	}
}

// group describes one group; ErrUnknownGroup where there is none.
func (b *Bus) group(ctx context.Context, stream, group string) (redisstream.GroupInfo, error) {
	if err := checkStreamGroup(stream, group); err != nil {
		return redisstream.GroupInfo{}, err
	}
	groups, err := b.log.Groups(ctx, stream)
	if err != nil {
		return redisstream.GroupInfo{}, b.redisError("describe groups of", stream, err)
	}
	i := slices.IndexFunc(groups, func(g redisstream.GroupInfo) bool { return g.Name == group })
	if i < 0 {
		return redisstream.GroupInfo{}, fmt.Errorf("group %s of stream %s: %w", group, stream, ErrUnknownGroup)
	}
	return groups[i], nil
}

// announcePause publishes that a group was paused or goes on. That it can't be published is logged: the change itself stands.
func (b *Bus) announcePause(ctx context.Context, eventType, stream, group string, p Pause) {
	data, _ := json.Marshal(struct {
		Stream string `json:"stream"`
		Group  string `json:"group"`
		Pause
	}{stream, group, p})
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	if _, err := b.publishAs(ctx, PublishOptions{}, []Event{{Type: eventType, Subject: stream + "/" + group, Data: data}}, true); err != nil {
		b.logger.Warn("change of a group could not be published", "type", eventType, "stream", stream, "group", group, "err", err)
	}
}

// heardPause takes what is written about the pause of the group at a stream, as an answer says that was
// asked for at the given time.
func (c *consumer) heardPause(m *membership, text string, asked time.Time) {
	c.pausing(m, func(p *pausing) pauseEffect { return p.heard(text, asked) })
}

// trip pauses the group at a stream: its deliveries fail for one reason, and would all become dead
// letters.
func (c *consumer) trip(m *membership, print string) {
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
func (c *consumer) inherit(m *membership, peers, dead []redisstream.Peer) {
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
func (c *consumer) probed(h *holding, succeeded bool) {
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
func (c *consumer) pausing(m *membership, event func(*pausing) pauseEffect) pauseEffect {
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
func (c *consumer) writePause(m *membership, w pauseWrite, before Pause) {
	done, err := c.bus.log.Pause(c.handling, m.stream, c.cfg.Group, w.seen, w.text)
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
		c.bus.announcePause(c.handling, typeGroupResumed, m.stream, c.cfg.Group, before)
	case w.seen == "":
		c.bus.announcePause(c.handling, typeGroupPaused, m.stream, c.cfg.Group, *parsePause(w.text))
	}
}

// tryParked tries one of the parked deliveries if it is time. Where none is parked, the next one that
// is read is tried.
func (c *consumer) tryParked(m *membership) {
	c.holdings.mu.Lock()
	defer c.holdings.mu.Unlock()
	c.holdings.tryParked(m, time.Now())
}

// mayRead reports whether the stream is to be read: what is read may begin, or a delivery is to be
// tried and none is here; and not too much of it is held here that nobody handles here.
func (c *consumer) mayRead(m *membership) bool {
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
