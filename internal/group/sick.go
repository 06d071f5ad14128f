package group

import (
	"slices"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// A consumer that fails while its siblings work, or that can't run its handler at all (WorkerError), is
// sick: it stops itself instead of pausing the group. It reads nothing and takes nothing over. What it
// holds and has not begun goes back to the log, as a copy in the lane that keeps its attempt and origin.
// With Policy.PerSubject it goes back in order: a delivery when the one before it of its subject is in the
// log, or, where that has failed and is to be tried again, when it is due.
// It goes on beating, since handlers may still run. From time to time it reads one delivery and tries it,
// and it goes on after one success.
//
// That is a pause which is written nowhere: so the machine is that of pausing, with holdings.own in its
// place. A trial may begin in a stream that the breaker has paused as well, whoever makes the probes
// there: else consumers that are all sick would wait for each other. A sick consumer gives up to make the
// probes of its group; another one inherits them.

// Sick says why a consumer has stopped itself. It is pipeline.Sick.
type Sick struct {
	Since  time.Time `json:"since"`
	Reason string    `json:"reason"`
}

// stop makes this consumer begin nothing more, until a delivery that is tried succeeds.
func (c *Consumer) stop(reason, print string) {
	why := Pause{
		By: PausedByBreaker, Reason: shortened(reason, maxCause), Since: time.Now().UTC(),
		Consumer: c.self.Name, Fingerprint: print,
	}
	back, began := c.holdings.stop(why, time.Now())
	if !began {
		return
	}
	c.logger.Error("consumer stops itself, and hands back what it has not begun; one delivery is tried from time to time",
		"deliveries", len(back), "reason", why.Reason, "hint", "mend or restart this process; others of the group go on")
	c.handBack(back)
	if c.cfg.Policy.PerSubject {
		c.tending.Start("hand back", c.letBack)
	}
	for _, m := range c.joined() {
		m.beatSoon() // its record says so
	}
}

// tried takes the result of a delivery, if it was the one that was tried.
func (c *Consumer) tried(h *Holding, succeeded bool) {
	if !h.trial.Load() {
		return
	}
	if c.holdings.tried(h, succeeded, time.Now()) {
		c.goOn("a delivery that was tried has succeeded")
	}
}

// goOn forgets what was said of this consumer: it is judged anew.
func (c *Consumer) goOn(why string) {
	for _, m := range c.joined() {
		m.anew.Store(true)
		m.beatSoon()
	}
	c.logger.Info("consumer goes on", "why", why)
}

// handBack puts deliveries on their way back into the log that are not to begin here; nobody holds them
// any more. It costs them no attempt.
func (c *Consumer) handBack(hs []*Holding) {
	for _, h := range hs {
		if h.ref.Spool { // the drain brings it into the log
			c.host.Spool.Finish(h.ref.ID.MS, c.self, false)
			c.holdings.settled(h)
			continue
		}
		c.putBack(settlement{h: h, retry: c.handedBack(h)})
	}
}

// putBack puts a delivery that is handed back on its way, at once or when letBack says so.
func (c *Consumer) putBack(s settlement) {
	if !c.holdings.keep(s) {
		c.acks.put(s)
	}
}

// keep keeps a delivery that is handed back until letBack, and reports whether it does.
func (w *holdings) keep(s settlement) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.keeping {
		w.kept = append(w.kept, s)
	}
	return w.keeping
}

// letBack lets go what is handed back, when no read is under way that began before this consumer stopped
// itself. Such a read would bring the first one here once more, and it would go back behind those of its
// subject that are to come after it.
func (c *Consumer) letBack() {
	c.mu.Lock()
	readers := slices.Clone(c.readers)
	c.mu.Unlock()
	for _, r := range readers {
		r.underway.Lock() // the read of it has ended, and none begins
		defer r.underway.Unlock()
	}
	w := &c.holdings
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.kept {
		c.acks.put(s)
	}
	w.keeping, w.kept = false, nil
}

// handedBack is the delivery as it came, for another consumer.
func (c *Consumer) handedBack(h *Holding) *redisstream.Retry {
	return &redisstream.Retry{Ref: h.ref, Message: h.copy(int(h.Attempt), h.Notes().Origin)}
}

// Sick says why this consumer has stopped itself; nil: it has not.
func (c *Consumer) Sick() *Sick {
	c.holdings.mu.Lock()
	defer c.holdings.mu.Unlock()
	own := &c.holdings.own
	if !own.isPaused() {
		return nil
	}
	return &Sick{Since: own.pause.Since, Reason: own.pause.Reason}
}
