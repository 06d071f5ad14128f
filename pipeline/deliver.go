package pipeline

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/rishi-platform/millrace/internal/redisstream"
)

// deliverLoop takes what was read in its order. It is the only one that sends on the channel of messages, and closes it.
func (c *consumer) deliverLoop() {
	defer c.closeOut()
	for {
		select {
		case <-c.reading.Done():
			return
		case read := <-c.intake:
			if !c.sort(read) {
				return
			}
		case <-c.turns:
			for _, h := range c.takeReady() {
				if !c.handOut(h) {
					return
				}
			}
		}
	}
}

// closeOut closes the channel of messages. Those that nobody has taken yet are given back by leaving.
func (c *consumer) closeOut() {
	for {
		select {
		case m := <-c.out:
			CurrentDelivery(m.Context()).handed.takeBack()
		default:
			close(c.out)
			return
		}
	}
}

// sort hands out what is handled here, leaves what a peer must handle to it, and acknowledges what the group does not take. It
// reports whether the consumer goes on.
func (c *consumer) sort(read []redisstream.Delivered) bool {
	var others map[string]*notHandled // by stream
	positions := positionsOf(read)
	var of *membership // of the stream that the entries are from
	var done []bool    // which of them were handled here; nil: not asked for
	for i := range read {
		d := &read[i]
		if d.Spool {
			of = spoolMembership()
		} else if i == 0 || d.Stream != read[i-1].Stream {
			of = c.membership(d.Stream)
		}
		if d.Gone {
			c.gone(*d)
			continue
		}
		event := c.bus.decode(d.Stream, d.Entry)
		if !d.Lane && event.handledBy(c.cfg.Group) {
			c.report(settlement{ref: d.Ref}) // while Redis was away
			continue
		}
		if event.origin == OriginRestored && !d.Lane {
			if done == nil {
				done = c.doneOf(read)
			}
			if done[i] { // before Redis had forgotten it
				c.report(settlement{ref: d.Ref})
				continue
			}
		}
		if c.handles(event.Type) {
			if !d.Spool {
				setDefault(&event.position, positions[i])
			}
			if !c.deliver(d, of, &event) {
				return false
			}
			continue
		}
		if others == nil {
			others = map[string]*notHandled{}
		}
		if others[d.Stream] == nil {
			others[d.Stream] = &notHandled{stream: d.Stream}
		}
		others[d.Stream].add(*d, event)
	}
	for _, o := range others {
		c.loops.start("pass on", func() { c.passOn(o) })
	}
	return true
}

// positionsOf returns the positions of entries, as parts of one string.
func positionsOf(read []redisstream.Delivered) []Position {
	ids := make([]redisstream.ID, len(read))
	for i := range read {
		ids[i] = read[i].ID
	}
	positions := make([]Position, len(read))
	for i, text := range redisstream.Strings(ids) {
		positions[i] = Position(text)
	}
	return positions
}

// gone settles an entry that was trimmed or deleted before this group could handle it. That is a loss: it is said and counted. One that was
// taken over has been settled by that.
func (c *consumer) gone(d redisstream.Delivered) {
	c.logger.Error("event was lost: its entry is gone from the stream before the group handled it", "stream", d.Stream, "position", d.ID.String(), "lane", d.Lane)
	if d.Claimed {
		c.window.release(d.Ref)
		return
	}
	c.loops.start("lose", func() {
		for backoff := backoffFirst; c.bus.log.Lose(c.reading, c.self, d.Ref) != nil; backoff = min(2*backoff, backoffMost) {
			if !sleep(c.reading, backoff) {
				return
			}
		}
		c.window.release(d.Ref)
	})
}

// deliver hands an event out, or behind others of its subject; false when the consumer stops.
func (c *consumer) deliver(read *redisstream.Delivered, of *membership, event *decoded) bool {
	crashes := event.crashes + max(0, read.Count-1)
	h := &handed{consumer: c, of: of, Delivery: Delivery{
		Event: event.Event, Stream: read.Stream, Position: event.position, Group: c.cfg.Group, Consumer: c.self.Name,
		Attempt: event.attempt + max(0, read.Count-1), Crashes: crashes, First: event.first, Origin: event.origin, Claimed: read.Claimed,
		Hop: event.hop, Previous: event.previous, ref: read.Ref, putOffs: event.putOffs, others: event.others,
	}}
	h.handed = h
	if read.Count > 0 || crashes > 0 {
		h.suspect, h.done = true, make(chan struct{})
	}
	if c.cfg.Policy.PerSubject && !c.first(h) {
		return true
	}
	return c.handOut(h)
}

// makeReady has deliverLoop hand the deliveries out.
func (c *consumer) makeReady(hs ...*handed) {
	c.mu.Lock()
	c.ready = append(c.ready, hs...)
	c.mu.Unlock()
	select {
	case c.turns <- struct{}{}:
	default: // deliverLoop has been told already
	}
}

func (c *consumer) takeReady() []*handed {
	c.mu.Lock()
	defer c.mu.Unlock()
	ready := c.ready
	c.ready = nil
	return ready
}

// handOut sends the delivery as a Watermill message; false when the consumer stops. What is not handed out then is given back by
// leaving.
func (c *consumer) handOut(h *handed) bool {
	if c.park(h) || h.suspect && !h.cleared && c.suspect(h) || c.putAside(h) {
		return true
	}
	held, ok := c.window.hand(c.reading, h)
	if !ok {
		return false
	}
	for time.Now().UnixNano() > h.of.fresh.Load() {
		if c.putAside(h) { // by now it is known that Redis is away
			c.window.settled()
			return true
		}
		c.beatSoon()
		if !sleep(c.reading, freshEvery) {
			c.window.settled()
			return false
		}
		held = c.window.holds(h.ref)
	}
	if held && h.ref.Spool && !c.bus.spool.start(h.ref.ID.MS, c) {
		c.window.release(h.ref)
		held = false
	}
	if !held { // another consumer has it by now, or it is on its way to Redis
		c.window.settled()
		h.drop()
		return true
	}
	setDefault(&h.First, time.Now().UTC())
	h.ctx.parent, h.ctx.delivery = c.handling, &h.Delivery
	h.message.UUID, h.message.Payload = h.Event.ID, h.Event.Data
	if !c.cfg.WithoutMetadata {
		h.message.Metadata = metadataOf(&h.Event)
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
		c.loops.start("watch", func() { c.watch(m, h) })
	}
	return true
}

// drop ends a delivery that is not to be handled here.
func (h *handed) drop() {
	h.over.Store(true)
	if h.done != nil {
		close(h.done)
	}
	h.consumer.next(h)
}

// takeBack ends a delivery that nobody took.
func (h *handed) takeBack() {
	h.over.Store(true)
	if h.end != nil {
		h.end(context.Canceled)
	}
	h.ctx.cancel(ErrDrainDeadline)
	h.unlimit()
	h.consumer.window.settled()
}

// watch settles the delivery as its message is acked or nacked: a foreign router has no other way to say it.
func (c *consumer) watch(m *message.Message, h *handed) {
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

// metadataOf is the event as the metadata of a Watermill message, with the keys of the wire format.
func metadataOf(e *Event) message.Metadata {
	m := make(message.Metadata, 9+len(e.Header))
	maps.Copy(m, e.Header)
	for _, p := range [...]redisstream.Pair{
		{Key: keyType, Value: e.Type}, {Key: keySource, Value: e.Source}, {Key: keySubject, Value: e.Subject},
		{Key: keyTime, Value: e.Time.Format(time.RFC3339Nano)}, {Key: keyCorrelation, Value: e.CorrelationID}, {Key: keyCausation, Value: e.CausationID},
		{Key: keyOrganization, Value: e.OrganizationID}, {Key: keyUser, Value: e.UserID}, {Key: keyContentType, Value: e.ContentType},
	} {
		if p.Value != "" {
			m[p.Key] = p.Value
		}
	}
	return m
}

// notHandled collects what this consumer does not handle, of one stream.
type notHandled struct {
	stream     string
	deliveries []redisstream.Delivered
	events     []decoded
}

func (n *notHandled) add(d redisstream.Delivered, e decoded) {
	n.deliveries = append(n.deliveries, d)
	n.events = append(n.events, e)
}

// passOn settles what this consumer does not handle: what the group takes waits until a peer fetches it, the rest is acknowledged and counted. It
// looks again when the patterns of the group have changed in between, and goes on until it is done or the consumer stops.
func (c *consumer) passOn(n *notHandled) {
	for backoff := backoffFirst; len(n.deliveries) > 0; backoff = min(2*backoff, backoffMost) {
		patterns := c.groupPatterns(n.stream)
		left := &notHandled{stream: n.stream}
		var skips []redisstream.Skip
		var retries []redisstream.Retry
		for i, d := range n.deliveries {
			e := &n.events[i]
			if e.foreign && !matchAny(patterns.Set, e.Type) {
				c.report(settlement{ref: d.Ref, burial: c.foreign(d, e)})
				continue
			}
			if matchAny(patterns.Set, e.Type) {
				retries = append(retries, redisstream.Retry{Ref: d.Ref, Message: c.again(d.Ref, e, e.attempt, e.origin), Waiting: waitingType(d.Stream, e.Type)})
			} else {
				skips = append(skips, redisstream.Skip{Ref: d.Ref, Type: e.Type})
			}
			left.add(d, *e)
		}
		if c.skip(n.stream, skips, patterns.Version) && c.putOff(n.stream, retries) {
			return
		}
		// Only what is not settled in the log yet is still held.
		n = c.window.stillHeld(left)
		c.refresh(n.stream)
		if !sleep(c.reading, backoff) {
			return
		}
	}
}

// foreign makes a dead letter of an entry that other software wrote into the stream and that no handler of the group is for (RELIABILITY F01).
func (c *consumer) foreign(d redisstream.Delivered, e *decoded) *redisstream.Burial {
	delivery := Delivery{Event: e.Event, Stream: d.Stream, Position: positionOf(d.ID), First: time.Now().UTC(), ref: d.Ref}
	return c.burialOf(&delivery, KindForeign, fmt.Errorf("entry carries no event, and the group has no handler for the type %q that stands for such entries", e.Type))
}

// waitingType is the type under which an event waits. Its metadata may be another software's: a NUL would end the name.
func waitingType(stream, eventType string) string {
	eventType = strings.ReplaceAll(eventType, "\x00", "")
	setDefault(&eventType, stream)
	return eventType
}

// skip reports whether all is settled.
func (c *consumer) skip(stream string, skips []redisstream.Skip, version int64) bool {
	if len(skips) == 0 {
		return true
	}
	settled, err := c.bus.log.Skip(c.reading, c.self, stream, skips, version)
	if err != nil || settled != redisstream.Done {
		return false
	}
	for _, s := range skips {
		c.window.release(s.Ref)
		if c.bus.cfg.Hooks.Unhandled != nil {
			c.bus.cfg.Hooks.Unhandled(stream, c.cfg.Group, s.Type)
		}
	}
	return true
}

// putOff reports whether all is settled.
func (c *consumer) putOff(stream string, retries []redisstream.Retry) bool {
	if len(retries) == 0 {
		return true
	}
	settled, _ := c.bus.log.Retry(c.reading, c.self, stream, retries)
	all := true
	for i, s := range settled {
		if s == redisstream.Full || s == redisstream.Unknown {
			all = false
		} else {
			c.window.release(retries[i].Ref)
		}
	}
	return all
}

// refresh hears what the group takes now.
func (c *consumer) refresh(stream string) {
	if beat, err := c.bus.log.Beat(c.reading, c.self, stream, ""); err == nil {
		c.setPatterns(stream, beat.Patterns)
	}
}

// again returns the event as a copy that arrives later: it keeps its identity and the position of the original.
func (c *consumer) again(ref redisstream.Ref, e *decoded, attempt int, origin string) redisstream.Message {
	position := e.position
	setDefault(&position, positionOf(ref.ID))
	extra := []redisstream.Pair{{Key: keyPosition, Value: string(position)}, {Key: keyAttempt, Value: strconv.Itoa(attempt)}}
	crashes, first, putOffs := "", "", ""
	if e.crashes > 0 {
		crashes = strconv.Itoa(e.crashes)
	}
	if e.putOffs > 0 {
		putOffs = strconv.Itoa(e.putOffs)
	}
	if !e.first.IsZero() {
		first = e.first.UTC().Format(time.RFC3339Nano)
	}
	for _, p := range [...]redisstream.Pair{
		{Key: keyCrashes, Value: crashes}, {Key: keyFirst, Value: first}, {Key: keyPutOffs, Value: putOffs},
		{Key: keyOrigin, Value: origin}, {Key: keyHop, Value: e.hop}, {Key: keyPrevious, Value: e.previous},
	} {
		if p.Value != "" {
			extra = append(extra, p)
		}
	}
	return encode(&e.Event, append(extra, e.others...)...)
}
