package group

import (
	"context"
	"time"
)

// Name is the name of the consumer, which nobody else has.
func (c *Consumer) Name() string { return c.self.Name }

// Group is the group that the consumer belongs to.
func (c *Consumer) Group() string { return c.cfg.Group }

// Timeout is how long a handler may run; 0: without end.
func (c *Consumer) Timeout() time.Duration { return c.cfg.Policy.Timeout }

// Counts is how many deliveries are handed out, and how many were handled and have failed since the consumer
// began.
func (c *Consumer) Counts() (inFlight int, handled, failed int64) {
	return c.holdings.inFlight(), c.handled.Load(), c.failed.Load()
}

// Patterns are the event types that are handled here, as they were given.
func (c *Consumer) Patterns() []string { return c.cfg.Patterns }

// Begun is when the consumer began.
func (c *Consumer) Begun() time.Time { return c.begun }

// Memberships is in how many groups of streams it has its place.
func (c *Consumer) Memberships() int { return len(c.joined()) }

// Trouble is something that a consumer can't do.
type Trouble struct {
	What    string // TroubleRead, TroubleBeat, or a step that is tried again and again
	Streams []string
	Since   time.Time
	Err     error
}

// What a consumer can't do.
const (
	TroubleRead = "read"
	TroubleBeat = "beat"
)

// Troubles returns what the consumer could not do for longer than the given time, and still can't.
func (c *Consumer) Troubles(longer time.Duration) (troubles []Trouble) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.readers {
		if r.trouble != nil && now.Sub(r.since) > longer {
			troubles = append(troubles, Trouble{TroubleRead, r.streams, r.since, c.shape("read group "+c.cfg.Group, "", r.trouble)})
		}
	}
	for _, m := range c.streams {
		of := []string{m.stream}
		if m.trouble != nil && now.Sub(m.beaten) > longer {
			err := c.shape("beat in group "+c.cfg.Group+" of", m.stream, m.trouble)
			troubles = append(troubles, Trouble{TroubleBeat, of, m.beaten, err})
		}
		for _, s := range m.setbacks.lasting(longer, now) {
			troubles = append(troubles, Trouble{s.step, of, s.first, c.setbackError(m, s.step, s.err)})
		}
	}
	return troubles
}

// Handling is the ctx of handlers: it ends when the work that is left is abandoned.
func (c *Consumer) Handling() context.Context { return c.handling }

// Reading ends when the consumer stops to take work.
func (c *Consumer) Reading() context.Context { return c.reading }

// Go starts a goroutine that ends before the consumer does.
func (c *Consumer) Go(name string, f func()) { c.loops.Start(name, f) }
