package group

import (
	"slices"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// shareAfter is how long a delivery waits for a place before it is left to a peer that is idle.
const shareAfter = 2 * time.Second

// share hands back what waits here for a place while a living peer has free ones: it goes into the lane,
// as the attempt that it is, where the peer reads it.
func (c *Consumer) share(m *membership, peers, dead []redisstream.Peer) {
	idle := func(p redisstream.Peer) bool { return p.IsIdle() && !slices.Contains(dead, p) }
	if !slices.ContainsFunc(peers, idle) {
		return
	}
	if back := c.holdings.share(m, time.Now().Add(-shareAfter)); len(back) > 0 {
		c.handBack(back)
		c.logger.Info("deliveries that wait here are left to an idle peer", "stream", m.stream,
			"deliveries", len(back))
	}
}

// share ends those deliveries of a stream that have waited for a place since before the given time, and
// returns them: they are to be handed back. What has to keep an order stays, what may
// be dangerous, what was fetched, since its peer may have no handler for it, and what is to be tried in a
// pause, during which no peer may begin it.
func (w *holdings) share(of *membership, before time.Time) (back []*Holding) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.count[heldTurn] == 0 || w.perSubject {
		return nil
	}
	for _, h := range w.held {
		waits := h.of == of && h.state == heldTurn && h.since < instantOf(before)
		if waits && !h.suspect && !h.taken && !h.probe.Load() {
			w.giveBack(h)
			back = append(back, h)
		}
	}
	w.signal()
	return back
}

// idle reports whether places are free, and nothing waits for one. The lock is held.
func (w *holdings) idle() bool {
	return !w.own.isPaused() && w.placed() < w.size && w.count[heldTurn]+w.count[heldRead] == 0
}

// holdsOf reports whether something of the stream is held. The lock is held.
func (w *holdings) holdsOf(stream string) bool {
	for ref := range w.held {
		if ref.Stream == stream && !ref.Spool {
			return true
		}
	}
	return false
}
