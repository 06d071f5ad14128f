package group

import (
	"cmp"
	"time"

	"github.com/rishi-platform/millrace/internal/loop"
	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/wire"
)

// deliverLoop looks at what was read, in its order, and hands out what has its turn. It is the only one
// that hands out, and closes the Outlet. It waits for nothing but work: what may not begin now waits in the
// holdings.
func (c *Consumer) deliverLoop() {
	defer c.host.Outlet.Close()
	for {
		select {
		case <-c.reading.Done():
			return
		case <-c.holdings.ready:
		}
		for {
			out, raise, back := c.holdings.next(time.Now())
			if len(raise) > 0 {
				c.raise(raise)
			}
			c.handBack(back)
			for i, h := range out {
				if !c.handOut(h) {
					for _, h := range out[i+1:] {
						h.TakeBack()
					}
					return
				}
			}
			read := c.holdings.nextArrival()
			if read == nil {
				break
			}
			c.route(read)
		}
	}
}

// route lets what is handled here wait for its turn, leaves what a peer must handle to it, and
// acknowledges what the group does not take.
func (c *Consumer) route(read []*Holding) {
	var others map[*membership][]other
	positions := positionsOf(read)
	var of *membership // of the stream that the entries are from
	var done []bool    // which of those from doneFrom on were handled here; nil: not asked for
	doneFrom := 0
	mine, now := make([]*Holding, 0, len(read)), time.Now()
	for i, h := range read {
		if h.ref.Spool {
			of = spoolMembership()
		} else if of == nil || of.stream != h.ref.Stream {
			of = c.membership(h.ref.Stream)
			of.woken(now)
		}
		h.of = of
		if h.gone {
			c.gone(h)
			continue
		}
		event := c.wire.Decode(h.ref.Stream, *h.entry)
		if !h.ref.Lane && event.HandledBy(c.cfg.Group) {
			c.report(settlement{h: h}) // while Redis was away
			continue
		}
		if event.Origin == OriginRestored && !h.ref.Lane {
			if done == nil {
				done, doneFrom = c.doneOf(read[i:]), i
			}
			if done[i-doneFrom] { // before Redis had forgotten it
				c.report(settlement{h: h})
				continue
			}
		}
		if !c.handles(event.Type) {
			if others == nil {
				others = map[*membership][]other{}
			}
			others[of] = append(others[of], other{h, event})
			continue
		}
		if !h.ref.Spool {
			event.Position = cmp.Or(event.Position, positions[i])
		}
		h.describe(&event)
		if !c.giveUp(h) {
			mine = append(mine, h)
		}
	}
	for _, off := range c.holdings.enqueue(mine, time.Now()) {
		c.report(settlement{h: off.h, retry: c.retryOf(off.h, int(off.h.Attempt), off.delay)})
	}
	for m, of := range others {
		c.passOn(m, of)
	}
}

// positionsOf returns the positions of entries, as parts of one string.
func positionsOf(read []*Holding) []string {
	ids := make([]redisstream.ID, len(read))
	for i, h := range read {
		ids[i] = h.ref.ID
	}
	return redisstream.Strings(ids)
}

// gone settles an entry that was trimmed or deleted before this group could handle it. That is a loss:
// it is said and counted. One that was taken over has been settled by that.
func (c *Consumer) gone(h *Holding) {
	c.logger.Error("event was lost: its entry is gone from the stream before the group handled it",
		"stream", h.ref.Stream, "position", h.ref.ID.String(), "lane", h.ref.Lane)
	if h.Claimed {
		c.holdings.settled(h)
		return
	}
	c.loops.Start("lose", func() {
		var backoff loop.Backoff
		for c.log.Lose(c.reading, c.self, h.ref) != nil {
			if !backoff.Wait(c.reading) {
				return
			}
		}
		c.holdings.settled(h)
	})
}

// describe takes what the entry of a holding says.
func (h *Holding) describe(event *wire.Decoded) {
	again := max(0, h.delivered-1)
	*h.Event = event.Event
	h.Position, h.First = event.Position, event.First
	h.Attempt, h.Crashes = int32(event.Attempt)+again, int32(event.Crashes)+again
	if event.Origin != "" || event.Hop != "" || event.Previous != "" || event.PutOffs > 0 || len(event.Others) > 0 {
		h.notes = &Notes{event.Origin, event.Hop, event.Previous, event.PutOffs, event.Others}
	}
	h.entry = nil
	h.suspect = h.delivered > 0 || h.Crashes > 0
	h.delivered = max(1, h.delivered)
}

// handOut gives the delivery to a handler; false when the consumer stops. What is not handed out then is
// given back by leaving.
func (c *Consumer) handOut(h *Holding) bool {
	if h.ref.Spool && !c.host.Spool.Start(h.ref.ID.MS, c.self) { // it is on its way to Redis
		c.holdings.finish(h, heldGone, 0)
		return true
	}
	if h.First.IsZero() {
		h.First = time.Now().UTC()
	}
	if !c.host.Outlet.HandOut(h) {
		h.TakeBack()
		return false
	}
	return true
}
