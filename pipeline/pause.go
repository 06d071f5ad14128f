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
	Consumer    string    `json:"consumer,omitempty"`    // of the breaker: who tries one delivery from time to time
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
// handle, and read no more. It reports false when the group is paused already.
func (b *Bus) PauseGroup(ctx context.Context, stream, group, reason string) (bool, error) {
	if _, err := b.group(ctx, stream, group); err != nil {
		return false, err
	}
	pause := Pause{By: PausedByOperator, Reason: reason, Since: time.Now().UTC()}
	done, err := b.log.Pause(ctx, stream, group, "", pause.text())
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

// paused is a stream of which the group takes nothing now.
type paused struct {
	text   string // as it is written
	pause  Pause
	parked []*handed // what was read and may not run
	wait   time.Duration
	probe  time.Time // when the next delivery is tried, where this consumer does that; zero: it does not
	trying bool      // one is being tried
}

const (
	probeFirst = 5 * time.Second // after that a paused group tries one delivery; it doubles …
	probeMost  = time.Minute     // … up to that
)

// trip pauses the group: its deliveries fail for one reason, and would all become dead letters.
func (c *consumer) trip(h *handed, print string, err error) {
	stream := h.Stream
	p := Pause{By: PausedByBreaker, Reason: shortened(err.Error(), maxCause), Since: time.Now().UTC(), Consumer: c.self.Name, Fingerprint: print}
	if !c.seePause(stream, p.text(), true) {
		return // it is paused already
	}
	h.of.breaker.reset()
	c.logger.Error("group is paused: nearly all deliveries fail for the same reason; one is tried from time to time", "stream", stream, "fingerprint", print, "err", err)
	c.tending.start("pause", func() {
		defer c.pauseWritten(stream)
		done, err := c.bus.log.Pause(c.handling, stream, c.cfg.Group, "", p.text())
		if err != nil {
			c.logger.Warn("peers could not be told that the group is paused", "stream", stream, "err", err)
		}
		if done {
			c.bus.announcePause(c.handling, typeGroupPaused, stream, c.cfg.Group, p)
		}
	})
}

// seePause notes what is written about the pause of the group at a stream, or what is about to be written by this consumer; until it is, what
// is heard from others is old. It reports whether the group was not paused before and is now.
func (c *consumer) seePause(stream, text string, mine bool) (began bool) {
	c.mu.Lock()
	m := c.streams[stream]
	if m.pausing && !mine {
		c.mu.Unlock()
		return false
	}
	m.pausing = mine
	before := m.paused
	if text == "" {
		m.paused = nil
		m.isPaused.Store(false)
		c.mu.Unlock()
		if before != nil {
			c.unpark(before.parked)
			c.logger.Info("group goes on", "stream", stream)
		}
		return false
	}
	defer c.mu.Unlock()
	if before == nil {
		m.isPaused.Store(true)
		m.paused = &paused{text: text, pause: *parsePause(text), wait: probeFirst}
		if m.paused.pause.Consumer == c.self.Name {
			m.paused.probe = time.Now().Add(probeFirst)
		}
		return true
	}
	if before.text != text {
		before.text, before.pause = text, *parsePause(text)
		if before.pause.Consumer != c.self.Name {
			before.probe = time.Time{}
		}
	}
	return false
}

// pauseWritten notes that others know by now what this consumer has decided.
func (c *consumer) pauseWritten(stream string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.streams[stream].pausing = false
}

// inherit makes this consumer the one that tries a delivery from time to time, where the one that did is gone.
func (c *consumer) inherit(stream string, peers []redisstream.Peer) {
	c.mu.Lock()
	p := c.streams[stream].paused
	if p == nil || p.pause.By != PausedByBreaker || !p.probe.IsZero() ||
		slices.ContainsFunc(peers, func(peer redisstream.Peer) bool {
			return peer.Name == p.pause.Consumer && peer.Beat != redisstream.Left
		}) {
		c.mu.Unlock()
		return
	}
	seen, mine := p.text, p.pause
	mine.Consumer = c.self.Name
	c.mu.Unlock()
	done, err := c.bus.log.Pause(c.reading, stream, c.cfg.Group, seen, mine.text())
	if err != nil || !done {
		return // the next beat tells who does
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.streams[stream].paused; now == p {
		p.text, p.pause, p.probe = mine.text(), mine, time.Now().Add(p.wait)
	}
}

// park keeps a delivery of a paused stream, and reports whether it did: one is tried when it is time for that.
func (c *consumer) park(h *handed) bool {
	if !h.of.isPaused.Load() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p := h.of.paused
	if p == nil || h.probe {
		return false
	}
	if p.due() {
		p.trying, h.probe = true, true
		return false
	}
	p.parked = append(p.parked, h)
	c.window.park(1)
	return true
}

func (p *paused) due() bool {
	return !p.probe.IsZero() && !p.trying && !time.Now().Before(p.probe)
}

// unpark hands parked deliveries out.
func (c *consumer) unpark(hs []*handed) {
	if len(hs) > 0 {
		c.window.park(-len(hs))
		c.makeReady(hs...)
	}
}

// tryParked tries one of the parked deliveries if it is time. Where none is parked, the next one that is read is tried.
func (c *consumer) tryParked(stream string) {
	c.mu.Lock()
	p := c.streams[stream].paused
	var h *handed
	if p != nil && p.due() && len(p.parked) > 0 {
		h, p.parked = p.parked[0], p.parked[1:]
		p.trying, h.probe = true, true
	}
	c.mu.Unlock()
	if h != nil {
		c.unpark([]*handed{h})
	}
}

// probed takes the result of the delivery that was tried.
func (c *consumer) probed(h *handed, succeeded bool) {
	c.mu.Lock()
	p := h.of.paused
	if p == nil || c.handling.Err() != nil {
		c.mu.Unlock()
		return
	}
	p.trying, p.wait = false, min(2*p.wait, probeMost)
	p.probe = time.Now().Add(p.wait)
	text, pause := p.text, p.pause
	c.mu.Unlock()
	if !succeeded {
		return
	}
	h.of.breaker.reset()
	c.seePause(h.Stream, "", true)
	c.tending.start("resume", func() {
		defer c.pauseWritten(h.Stream)
		done, err := c.bus.log.Pause(c.handling, h.Stream, c.cfg.Group, text, "")
		if err != nil {
			c.logger.Warn("peers could not be told that the group goes on", "stream", h.Stream, "err", err)
		}
		if done {
			c.bus.announcePause(c.handling, typeGroupResumed, h.Stream, c.cfg.Group, pause)
		}
	})
}

// mayRead reports whether the stream is to be read: it is not paused, or a delivery is to be tried and none is here.
func (c *consumer) mayRead(stream string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.streams[stream]
	if m == nil {
		return true
	}
	p := m.paused
	return p == nil || p.due() && len(p.parked) == 0
}
