package group

import (
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// What follows puts a consumer into states that take long to come about, and looks at what nobody else asks
// for. It is for tests of the whole.

// Self is the consumer as the log knows it.
func (c *Consumer) Self() redisstream.Consumer { return c.self }

// Stop makes the consumer stop itself.
func (c *Consumer) Stop(reason string) { c.stop(reason, "") }

// Abandon ends the ctx of handlers.
func (c *Consumer) Abandon(cause error) { c.abandon(cause) }

// TryNow makes the time come at which a consumer that has stopped itself tries a delivery.
func (c *Consumer) TryNow() {
	c.holdings.mu.Lock()
	defer c.holdings.mu.Unlock()
	c.holdings.own.probeAt = time.Now()
}

// HasTried reports whether a delivery was tried since the consumer has stopped itself.
func (c *Consumer) HasTried() bool {
	c.holdings.mu.Lock()
	defer c.holdings.mu.Unlock()
	return !c.holdings.own.pause.TriedAt.IsZero()
}

// ProbeAt makes a time the one of the next probe at a stream, if the consumer is to make it and the time is
// earlier.
func (c *Consumer) ProbeAt(stream string, at time.Time) {
	m := c.membership(stream)
	c.holdings.mu.Lock()
	defer c.holdings.mu.Unlock()
	if m.pause.isProber() && m.pause.probeAt.After(at) {
		m.pause.probeAt = at
	}
}

// Take gives the consumer deliveries, as if there had been room for them.
func (c *Consumer) Take(read []redisstream.Delivered) {
	c.holdings.arrive(c.holdings.hold(c, read), false)
}

// Held is how many entries the consumer holds; with a stream, of that.
func (c *Consumer) Held(stream string) (n int) {
	c.holdings.mu.Lock()
	defer c.holdings.mu.Unlock()
	for ref := range c.holdings.held {
		if stream == "" || ref.Stream == stream {
			n++
		}
	}
	return n
}

// Holds reports whether the consumer holds an entry.
func (c *Consumer) Holds(ref redisstream.Ref) bool {
	c.holdings.mu.Lock()
	defer c.holdings.mu.Unlock()
	return c.holdings.held[ref] != nil
}

// Waiting is how many deliveries wait: for a place, and for the end of a pause.
func (c *Consumer) Waiting() (turn, paused int) {
	c.holdings.mu.Lock()
	defer c.holdings.mu.Unlock()
	return c.holdings.count[heldTurn], c.holdings.count[heldPaused]
}

// WaitsForRoom reports whether somebody waits for a change of what is held.
func (c *Consumer) WaitsForRoom() bool {
	c.holdings.mu.Lock()
	defer c.holdings.mu.Unlock()
	return c.holdings.changed != nil
}

// Lose has another consumer have an entry.
func (c *Consumer) Lose(ref redisstream.Ref) { c.holdings.lose(ref) }

// Lapse is what a stall does to a stream: nothing of it begins before the next beat.
func (c *Consumer) Lapse(stream string) { c.membership(stream).fresh.Store(1) }

// BeatSoon asks for a beat at a stream.
func (c *Consumer) BeatSoon(stream string) { c.membership(stream).beatSoon() }

// Rests reports whether the consumer rests at a stream.
func (c *Consumer) Rests(stream string) bool { return c.membership(stream).resting.Load() }

// TakeOver says whether what the dead have left at a stream is taken over.
func (c *Consumer) TakeOver(stream string, yes bool) { c.membership(stream).taking.Store(!yes) }

// BeatenAt makes a time the one of the last beat at a stream that was answered.
func (c *Consumer) BeatenAt(stream string, at time.Time) {
	m := c.membership(stream)
	c.mu.Lock()
	defer c.mu.Unlock()
	m.beaten = at
}

// HoldReads keeps the first reader from reading until let is called, unless a read is under way.
func (c *Consumer) HoldReads() (let func(), held bool) {
	c.mu.Lock()
	r := c.readers[0]
	c.mu.Unlock()
	return r.underway.Unlock, r.underway.TryLock()
}
