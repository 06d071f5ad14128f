package group

import (
	"slices"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// leaseEvery is how often a consumer looks whether it still has what it holds for long, and for consumers of other software.
const leaseEvery = 10 * time.Second

// leaseLoop looks after what is held for long. It takes what consumers without a beat, which are other software's, have left pending for
// Policy.ClaimIdle; it renews what is held here, before they claim it, and finds out what somebody has taken away.
func (c *Consumer) leaseLoop() {
	every := max(min(leaseEvery, c.cfg.Policy.ClaimIdle/4), 50*time.Millisecond)
	timer := time.NewTicker(every)
	defer timer.Stop()
	for {
		select {
		case <-c.tended.Done():
			return
		case <-timer.C:
		}
		long := c.holdings.heldLong(time.Now().Add(-c.cfg.Policy.ClaimIdle / 3))
		busy := slices.DeleteFunc(c.joined(), func(m *membership) bool {
			return len(long[m.stream]) == 0 && !m.strangers.Load()
		})
		eachOf(busy, func(m *membership) { c.tendLeases(m, long[m.stream]) })
	}
}

func (c *Consumer) tendLeases(m *membership, long []redisstream.Ref) {
	if len(long) > 0 {
		gone, err := c.log.Renew(c.tended, c.self, m.stream, long)
		for _, ref := range gone {
			c.loseLease(ref)
		}
		c.noteStep(m, stepRenew, err)
		if err != nil {
			return // the next round finds out
		}
	}
	if !m.strangers.Load() || c.reading.Err() != nil || !m.taking.CompareAndSwap(false, true) {
		return // no time for more, or takeOver is at it
	}
	c.loops.Start("claim", func() {
		defer m.taking.Store(false)
		c.claimFromStrangers(m)
	})
}

// claimFromStrangers takes what consumers of other software have left pending for long, ahead of what
// was read.
func (c *Consumer) claimFromStrangers(m *membership) {
	room, asked := c.roomToTake(m), time.Now()
	if room == 0 {
		return
	}
	_, fresh, err := c.holdings.holdListed(c, func() ([]redisstream.Delivered, error) {
		taken, err := c.log.Strangers(c.reading, c.self, m.stream, c.cfg.Policy.ClaimIdle, c.most(room))
		c.budget.answered(taken, err)
		return taken, err
	})
	c.noteStep(m, stepClaim, err)
	if len(fresh) > 0 {
		c.logger.Info("deliveries that a consumer of other software has left for long were claimed",
			"stream", m.stream, "deliveries", len(fresh))
	}
	c.holdings.arrive(c.stillOurs(fresh, asked), true) // also beside an error: they are held
}

// loseLease ends the handling of a delivery that another consumer has by now.
func (c *Consumer) loseLease(ref redisstream.Ref) {
	h := c.holdings.lose(ref)
	if h == nil || h.over.Load() {
		return // it was not running, or its result is on its way: that does nothing to what is not pending here
	}
	h.Delivery.Cancel(ErrLeaseLost)
	c.logger.Warn("delivery was taken over by another consumer while it was handled here",
		"stream", ref.Stream, "id", h.Event.ID)
}
