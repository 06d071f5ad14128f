package group

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/rishi-platform/millrace/internal/pattern"
	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/wire"
)

// other is an entry of a type that this consumer has no handler for, and the event in it.
type other struct {
	h     *Holding
	event wire.Decoded
}

const (
	// othersLeast and othersPerSize bound the others that are held of one stream: a stream with
	// more of them than both, the second times the size, is not read. They take no room, and
	// somebody has to keep them.
	othersLeast   = 1000
	othersPerSize = 2
	// skipAtOnce and waitAtOnce are the most others that one script settles, and waitBytes is about
	// how many bytes it carries at most: the server answers nobody else meanwhile.
	skipAtOnce = 1000
	waitAtOnce = 100
	waitBytes  = 1 << 20
	// passOnFirst and passOnMost are the pauses of passOnLoop while nothing can be passed on.
	passOnFirst = 50 * time.Millisecond
	passOnMost  = 30 * time.Second
)

// leaveToOthers lets entries wait until they are passed on, and reports whether passOnLoop is to be
// started for that.
func (w *holdings) leaveToOthers(of *membership, others []other) (start bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range others {
		if o.h.state == heldRead { // else it was lost
			w.move(o.h, heldOthers)
			of.others = append(of.others, o)
		}
	}
	w.signal() // there is more room
	start = !of.passing && len(of.others) > 0
	of.passing = of.passing || start
	return start
}

// othersOf returns the others of a stream that are still held, in their order. Where there are
// none, passOnLoop ends.
func (w *holdings) othersOf(of *membership) []other {
	w.mu.Lock()
	defer w.mu.Unlock()
	of.stillOthers()
	if len(of.others) == 0 {
		of.others, of.passing = nil, false
		return nil
	}
	return append([]other(nil), of.others...)
}

// stillOthers leaves out those that were passed on or lost, and returns how many there are. The
// lock of the holdings is held.
func (m *membership) stillOthers() int {
	left := m.others[:0]
	for _, o := range m.others {
		if o.h.state == heldOthers {
			left = append(left, o)
		}
	}
	clear(m.others[len(left):])
	m.others = left
	return len(left)
}

// tooManyOthers reports whether so many others of a stream are held that it is not to be read. The
// lock is held.
func (w *holdings) tooManyOthers(of *membership) bool {
	most := max(othersLeast, othersPerSize*w.size)
	return len(of.others) > most && of.stillOthers() > most
}

// passOnSoon has passOnLoop look at once: there is something new. With again it tries what could
// not be done either, whatever its back-off.
func (m *membership) passOnSoon(again bool) {
	if again {
		m.passAgain.Store(true)
	}
	select {
	case m.passKick <- struct{}{}:
	default: // it is told already
	}
}

// passOn has others of a stream passed on.
func (c *Consumer) passOn(m *membership, others []other) {
	if c.holdings.leaveToOthers(m, others) {
		c.loops.Start("pass on", func() { c.passOnLoop(m) })
	} else {
		m.passOnSoon(false)
	}
}

// passOnLoop settles the others of one stream: what the group takes waits in the log until a peer
// fetches it, the rest is acknowledged and counted. It is the only one of the stream, and ends when
// none is left or the consumer stops. While the log takes no more of those that wait, one of them
// is tried from time to time: whoever handles the type may not come for hours.
func (c *Consumer) passOnLoop(m *membership) {
	var skipping, waiting passPace
	for {
		others := c.holdings.othersOf(m)
		if len(others) == 0 {
			return
		}
		if m.passAgain.Swap(false) {
			skipping.until, waiting.until = time.Time{}, time.Time{}
		}
		skips, waits := c.siftOthers(m, others)
		went := false
		if len(skips) > 0 && skipping.isDue() {
			went = skipping.note(c.skipOthers(m, skips))
		}
		if len(waits) > 0 && waiting.isDue() {
			went = waiting.note(c.letWait(m, waits, waiting.most())) || went
		}
		if went {
			continue
		}
		until := waiting.until
		if len(waits) == 0 || len(skips) > 0 && skipping.until.Before(until) {
			until = skipping.until
		}
		if !m.awaitPassOn(c.reading, until) {
			return
		}
	}
}

// awaitPassOn waits until the given time, or until passOnSoon; false when ctx has ended.
func (m *membership) awaitPassOn(ctx context.Context, until time.Time) bool {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-m.passKick:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// passPace says when passOnLoop may try one of the two things that it does.
type passPace struct {
	until time.Time     // not before
	pause time.Duration // after the last attempt, which did nothing; zero: it did something
}

func (p *passPace) isDue() bool { return !time.Now().Before(p.until) }

// most is how many deliveries the next attempt is made with: after one that did nothing, a single
// one.
func (p *passPace) most() int {
	if p.pause > 0 {
		return 1
	}
	return waitAtOnce
}

// note takes what became of an attempt, and returns it.
func (p *passPace) note(went bool) bool {
	switch {
	case went:
		*p = passPace{}
		return true
	case p.pause == 0:
		p.pause = passOnFirst
	default:
		p.pause = min(2*p.pause, passOnMost)
	}
	p.until = time.Now().Add(p.pause)
	return false
}

// siftOthers divides others by what the group takes. What other software wrote into the stream, and
// no handler of the group is for, becomes a dead letter.
func (c *Consumer) siftOthers(m *membership, others []other) (skips, waits []other) {
	patterns := c.groupPatterns(m).Set
	for _, o := range others {
		switch taken := pattern.MatchAny(patterns, o.event.Type); {
		case taken:
			waits = append(waits, o)
		case o.event.Foreign:
			c.report(settlement{h: o.h, burial: c.foreign(o.h, &o.event)})
		default:
			skips = append(skips, o)
		}
	}
	return skips, waits
}

// foreign makes a dead letter of an entry that other software wrote into the stream and that no
// handler of the group is for.
func (c *Consumer) foreign(h *Holding, e *wire.Decoded) *redisstream.Burial {
	// Of its own: others may look at what is held.
	dead := &Holding{Event: &e.Event, ref: h.ref, Position: h.ref.ID.String(), First: time.Now().UTC()}
	return c.burialOf(dead, &Result{Kind: KindForeign, Err: fmt.Errorf("entry carries no event, and the group has "+
		"no handler for the type %q that stands for such entries", e.Type)})
}

// skipOthers acknowledges and counts others that the group does not take, and reports whether that
// was done.
func (c *Consumer) skipOthers(m *membership, others []other) bool {
	others = others[:min(len(others), skipAtOnce)]
	skips, of := make([]redisstream.Skip, len(others)), make([]*Holding, len(others))
	for i, o := range others {
		skips[i], of[i] = redisstream.Skip{Ref: o.h.ref, Type: o.event.Type}, o.h
	}
	settled, err := c.log.Skip(c.reading, c.self, m.stream, skips, c.groupPatterns(m).Version)
	c.noteStep(m, stepSkip, err)
	if err != nil || settled != redisstream.Done {
		c.refresh(m, settled)
		return false
	}
	c.holdings.settled(of...)
	if c.host.Unhandled != nil {
		for _, s := range skips {
			c.host.Unhandled(m.stream, s.Type)
		}
	}
	return true
}

// letWait lets up to most others wait in the log for a consumer of their type, and reports whether
// any does.
func (c *Consumer) letWait(m *membership, others []other, most int) bool {
	var waits []redisstream.Wait
	bytes := 0
	for _, o := range others[:min(len(others), most)] {
		message := wire.Again(o.h.ref.ID, &o.event, o.event.Attempt, o.event.Origin)
		bytes += len(message.Metadata) + len(message.Payload)
		if len(waits) > 0 && bytes > waitBytes {
			break
		}
		eventType := waitingType(m.stream, o.event.Type)
		waits = append(waits, redisstream.Wait{Ref: o.h.ref, Type: eventType, Message: message})
	}
	results, err := c.log.LetWait(c.reading, c.self, m.stream, waits, c.groupPatterns(m).Version)
	c.noteStep(m, stepWait, err)
	var settled []*Holding
	last := redisstream.Done
	for i, result := range results {
		last = max(last, result)
		if result == redisstream.Done || result == redisstream.LeaseLost {
			settled = append(settled, others[i].h)
		}
	}
	c.holdings.settled(settled...)
	c.refresh(m, last)
	c.noteFull(m, last)
	return len(settled) > 0
}

// noteFull says that no more events may wait for a consumer of their type, once until some may
// again.
func (c *Consumer) noteFull(m *membership, last redisstream.Settled) {
	switch {
	case last == redisstream.Done:
		m.waitFull = false
	case last == redisstream.Full && !m.waitFull:
		m.waitFull = true
		c.logger.Error("as many events of the group as may wait for a consumer of their type do: more "+
			"are held here, up to a bound, and then the stream is not read", "stream", m.stream,
			"hint", fmt.Sprintf("millrace group info %s %s names the types", m.stream, c.cfg.Group))
	}
}

// waitingType is the type under which an event waits. Its metadata may be another software's: a NUL
// would end the name.
func waitingType(stream, eventType string) string {
	eventType = strings.ReplaceAll(eventType, "\x00", "")
	return cmp.Or(eventType, stream)
}

// refresh hears what the group takes now, where that is not what a step was made with.
func (c *Consumer) refresh(m *membership, of redisstream.Settled) {
	if of != redisstream.Changed {
		return
	}
	if beat, err := c.log.Beat(c.reading, c.self, m.stream, redisstream.Say{Holds: true}); err == nil {
		c.setPatterns(m, beat.Patterns)
	}
}
