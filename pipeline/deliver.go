package pipeline

import (
	"context"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/rishi-platform/millrace/internal/loop"
	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/wire"
)

// deliverLoop looks at what was read, in its order, and hands out what has its turn. It is the only one
// that sends on the channel of messages, and closes it. It waits for nothing but work: what may not
// begin now waits in the holdings.
func (c *consumer) deliverLoop() {
	defer c.closeOut()
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
						h.takeBack()
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

// closeOut closes the channel of messages. Those that nobody has taken yet are given back by leaving.
func (c *consumer) closeOut() {
	for {
		select {
		case m := <-c.out:
			CurrentDelivery(m.Context()).holding.takeBack()
		default:
			close(c.out)
			return
		}
	}
}

// route lets what is handled here wait for its turn, leaves what a peer must handle to it, and
// acknowledges what the group does not take.
func (c *consumer) route(read []*holding) {
	var others map[*membership][]other
	positions := positionsOf(read)
	var of *membership // of the stream that the entries are from
	var done []bool    // which of those from doneFrom on were handled here; nil: not asked for
	doneFrom := 0
	mine, now := make([]*holding, 0, len(read)), time.Now()
	for i, h := range read {
		if h.ref.Spool {
			of = spoolMembership()
		} else if of == nil || of.stream != h.Stream {
			of = c.membership(h.Stream)
			of.woken(now)
		}
		h.of = of
		if h.gone {
			c.gone(h)
			continue
		}
		event := c.bus.decode(h.Stream, *h.entry)
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
			setDefault(&event.Position, positions[i])
		}
		h.describe(&event)
		if !c.giveUp(h) {
			mine = append(mine, h)
		}
	}
	for _, off := range c.holdings.enqueue(mine, time.Now()) {
		c.report(settlement{h: off.h, retry: c.retryOf(&off.h.Delivery, off.h.Attempt, off.delay)})
	}
	for m, of := range others {
		c.passOn(m, of)
	}
}

// positionsOf returns the positions of entries, as parts of one string.
func positionsOf(read []*holding) []string {
	ids := make([]redisstream.ID, len(read))
	for i, h := range read {
		ids[i] = h.ref.ID
	}
	return redisstream.Strings(ids)
}

// gone settles an entry that was trimmed or deleted before this group could handle it. That is a loss:
// it is said and counted. One that was taken over has been settled by that.
func (c *consumer) gone(h *holding) {
	c.logger.Error("event was lost: its entry is gone from the stream before the group handled it",
		"stream", h.Stream, "position", h.ref.ID.String(), "lane", h.ref.Lane)
	if h.Claimed {
		c.holdings.settled(h)
		return
	}
	c.loops.Start("lose", func() {
		var backoff loop.Backoff
		for c.bus.log.Lose(c.reading, c.self, h.ref) != nil {
			if !backoff.Wait(c.reading) {
				return
			}
		}
		c.holdings.settled(h)
	})
}

// describe makes a delivery of the holding, with what its entry says.
func (h *holding) describe(event *wire.Decoded) {
	again := max(0, h.delivered-1)
	crashes := event.Crashes + again
	h.Delivery = Delivery{
		Event: Event(event.Event), Stream: h.Stream, Position: Position(event.Position), Group: h.consumer.cfg.Group,
		Consumer: h.consumer.self.Name, Attempt: event.Attempt + again, Crashes: crashes,
		First: event.First, Origin: event.Origin, Claimed: h.Claimed, Hop: event.Hop,
		Previous: event.Previous, ref: h.ref, putOffs: event.PutOffs, others: event.Others, holding: h,
	}
	h.entry = nil
	h.suspect = h.delivered > 0 || crashes > 0
	h.delivered = max(1, h.delivered)
}

// handOut sends the delivery as a Watermill message; false when the consumer stops. What is not handed
// out then is given back by leaving.
func (c *consumer) handOut(h *holding) bool {
	if h.ref.Spool && !c.bus.spool.start(h.ref.ID.MS, c) { // it is on its way to Redis
		c.holdings.finish(h, heldGone, 0)
		return true
	}
	setDefault(&h.First, time.Now().UTC())
	h.ctx.parent, h.ctx.delivery = c.handling, &h.Delivery
	h.message.UUID, h.message.Payload = h.Event.ID, h.Event.Data
	if !c.cfg.WithoutMetadata {
		h.message.Metadata = wire.Metadata((*wire.Event)(&h.Event))
	}
	m := &h.message
	if !c.cfg.SettledByHandler { // Ack and Nack of one that was not made by NewMessage can't be waited for
		m = message.NewMessage(m.UUID, m.Payload)
		m.Metadata = h.message.Metadata
		setDefault(&h.done, make(chan struct{}))
	}
	var ctx context.Context = &h.ctx
	if hook := c.bus.cfg.Hooks.Process; hook != nil {
		ctx, h.end = callSpan(hook, ctx, &h.Delivery)
	}
	m.SetContext(ctx)
	if timeout := c.cfg.Policy.Timeout; timeout > 0 {
		h.limit(timeout)
	}
	select {
	case c.out <- m:
	case <-c.reading.Done():
		h.takeBack()
		return false
	}
	if !c.cfg.SettledByHandler {
		c.holdings.took(h, time.Now())
		c.loops.Start("watch", func() { c.watch(m, h) })
	}
	return true
}

// watch settles the delivery as its message is acked or nacked: a foreign router has no other way to say it.
func (c *consumer) watch(m *message.Message, h *holding) {
	select {
	case <-m.Acked():
		h.settle(nil)
	case <-m.Nacked():
		h.settle(errNacked)
	case <-h.done:
	case <-c.handling.Done():
		h.settle(context.Cause(c.handling)) // its result would come too late; the delivery has been handed back
	}
}
