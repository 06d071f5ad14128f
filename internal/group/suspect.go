package group

import (
	"context"
	"fmt"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// A suspect is a delivery that was taken over from a consumer that died, and may be what it died of.
// Its delivery count is raised just before its handler starts, when it has its place, so that a further
// death tells which deliveries were running and which only waited for their turn: only those move
// towards the crash limit. Those of which that is known already (dangerous) run one at a time, so that
// the next death tells which one it was. A consumer that leaves puts the counts back of those that it has
// no result of.

// suspectCount is the count with which an entry is held that was found pending here, unknown: 0 for one
// that is no suspect. The reply that brought it is lost, so it may have been read or taken over. Only the
// counts of suspects are ever raised; what was delivered once was read here, as far as anybody knows. It
// may have been what its consumer died of for the first time, which is not counted anyway.
func suspectCount(delivered int) int {
	if delivered == 1 {
		return 0
	}
	return delivered
}

// giveUp makes a dead letter of a delivery with which processes have died too often, and reports
// whether it is one.
func (c *Consumer) giveUp(h *Holding) bool {
	limit := c.cfg.Policy.CrashLimit
	if !h.suspect || limit < 0 || int(h.Crashes) < limit {
		return false
	}
	err := fmt.Errorf("the process died %d times while it handled the event", h.Crashes)
	h.Attempt-- // this one is not made
	c.report(settlement{h: h, burial: c.burialOf(h, &Result{Err: err, Kind: KindCrash})})
	return true
}

// raise raises the delivery counts of placed suspects and lets them begin.
func (c *Consumer) raise(hs []*Holding) {
	byStream := map[*membership][]*Holding{}
	for _, h := range hs {
		byStream[h.of] = append(byStream[h.of], h)
	}
	for of, hs := range byStream {
		c.loops.Start("raise", func() { c.raiseOf(of, hs) })
	}
}

// raiseOf raises the counts of suspects of one stream. Where that can't be done now they wait for the
// next beat of the stream, and hold no place.
func (c *Consumer) raiseOf(of *membership, hs []*Holding) {
	suspects := make([]redisstream.Suspect, len(hs))
	for i, h := range hs {
		suspects[i] = redisstream.Suspect{Ref: h.ref, Count: int(h.delivered)}
	}
	gone, err := c.log.Raise(c.reading, c.self, of.stream, suspects)
	c.noteStep(of, stepRaise, err)
	for _, ref := range gone { // another consumer has them by now
		c.loseLease(ref)
	}
	if err != nil {
		c.holdings.setAside(hs)
		return
	}
	c.holdings.clear(hs)
}

// lower puts the counts of raised suspects back that have no result, since their handlers have not begun
// or were cut off by the drain deadline: what is handed back costs no attempt, and is no crash.
func (c *Consumer) lower(ctx context.Context, of *membership, raised []redisstream.Suspect) {
	if len(raised) == 0 {
		return
	}
	if err := c.log.Lower(ctx, c.self, of.stream, raised); err != nil {
		c.logger.Warn("deliveries that are handed back count as ones that the process died of", "stream", of.stream,
			"deliveries", len(raised), "err", c.shape("lower counts of group "+c.cfg.Group+" of", of.stream, err))
	}
}
