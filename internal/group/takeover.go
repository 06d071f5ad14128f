package group

import (
	"slices"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// takeOver takes what peers of the group hold that have died or left, and what waits for a handler that
// is here, as much at a time as may wait for a place ahead of what was read. It goes on until nothing
// is left or the consumer stops: how busy this consumer is delays only the beginning of what it has
// taken, never the taking.
func (c *Consumer) takeOver(m *membership, dead []redisstream.Peer, waiting bool) {
	for _, p := range dead {
		c.takeFrom(m, p)
	}
	if waiting {
		c.fetchWaiting(m)
	}
}

// takeFrom takes what one peer holds, a batch after the other.
func (c *Consumer) takeFrom(m *membership, p redisstream.Peer) {
	for {
		room, asked := c.roomToTake(m), time.Now()
		if room == 0 {
			return
		}
		m.takingOver.Lock()
		listed, fresh, err := c.holdings.holdListed(c, func() ([]redisstream.Delivered, error) {
			taken, err := c.log.TakeOver(c.reading, c.self, m.stream, p, c.most(room))
			c.budget.answered(taken, err)
			for i := range taken {
				if p.Beat == redisstream.Left && taken[i].Count == 1 {
					taken[i].Count = 0 // handed back, and no suspect
				}
			}
			return taken, err
		})
		m.takingOver.Unlock()
		if listed > 0 {
			c.logger.Info("deliveries of a consumer that is gone were taken over", "stream", m.stream,
				"peer", p.Name, "left", p.Beat == redisstream.Left, "deliveries", listed)
		}
		c.holdings.arrive(c.stillOurs(fresh, asked), true) // also beside an error: they are held
		c.noteStep(m, stepTake, err)
		if err != nil || listed == 0 {
			return
		}
	}
}

// roomToTake waits until entries of a stream may be taken, and returns how many; 0 when the consumer
// stops, or where the stream is paused and as many wait for the end of that as there are places: more
// would leave no room for other streams.
func (c *Consumer) roomToTake(m *membership) int {
	room := c.holdings.freeToTake(c.reading)
	c.holdings.mu.Lock()
	defer c.holdings.mu.Unlock()
	if m.pause.isPaused() && len(m.parked) >= c.holdings.size {
		return 0
	}
	return room
}

// stillOurs returns those holdings of an answer, asked for at the given time, that nobody has taken over
// meanwhile: while it was on its way this consumer may have been taken for dead, and have come back. Then
// the log is asked. The others are not held, nor are any where it does not say: what is pending here all
// the same is found by reconcile.
func (c *Consumer) stillOurs(hs []*Holding, asked time.Time) []*Holding {
	if c.lapsed.Load() <= asked.UnixNano() {
		return hs
	}
	doubtful := map[string][]redisstream.Ref{}
	for _, h := range hs {
		if m := c.membership(h.ref.Stream); m != nil && m.lapsed.Load() > asked.UnixNano() {
			doubtful[h.ref.Stream] = append(doubtful[h.ref.Stream], h.ref)
		}
	}
	taken := map[redisstream.Ref]bool{}
	for stream, refs := range doubtful {
		gone, err := c.log.Renew(c.reading, c.self, stream, refs)
		if err != nil {
			gone = refs
		}
		for _, ref := range gone {
			taken[ref] = true
		}
	}
	return slices.DeleteFunc(hs, func(h *Holding) bool {
		if taken[h.ref] {
			c.holdings.settled(h)
		}
		return taken[h.ref]
	})
}

// most bounds what is taken at once, where there is room for so many entries.
func (c *Consumer) most(room int) redisstream.Most {
	return redisstream.Most{Entries: min(room, takeBatch), Bytes: c.budget.most()}
}

// takeBatch is the most deliveries that one script takes over or fetches: it must not hold the server
// up for long.
const takeBatch = 100
