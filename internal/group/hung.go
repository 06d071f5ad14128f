package group

import (
	"bytes"
	"fmt"
	"runtime/pprof"
	"strings"
	"time"
)

// Overdue is a handler of this process that runs for longer than it may.
type Overdue struct {
	Of    *Holding
	By    *Consumer
	Since time.Time
	Stack string // as it was when the handler got stuck; empty: not looked at yet
}

// Overdue returns the handlers of a consumer that run for longer than they may: for twice Policy.Timeout,
// or for longer than the given time where there is none.
func (c *Consumer) Overdue(now time.Time, longest time.Duration) []Overdue {
	if c.cfg.Policy.Timeout == 0 {
		return c.holdings.running(now.Add(-longest))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var handlers []Overdue
	for of, stuck := range c.stuckHandlers {
		handlers = append(handlers, Overdue{Of: of, By: c, Since: stuck.since, Stack: stuck.stack})
	}
	return handlers
}

// running returns the handlers that began before the given time and have not returned.
func (w *holdings) running(before time.Time) (handlers []Overdue) {
	w.mu.Lock()
	defer w.mu.Unlock()
	look := func(h *Holding) {
		switch h.state {
		case heldHanded, heldRunning, heldLent, heldLost:
			if h.began != 0 && h.began < instantOf(before) {
				handlers = append(handlers, Overdue{Of: h, By: h.consumer, Since: h.began.time()})
			}
		}
	}
	for _, h := range w.held {
		look(h)
	}
	for h := range w.lost {
		look(h)
	}
	return handlers
}

// took notes that a foreign router has taken a delivery, whose handler may run from now on.
func (w *holdings) took(h *Holding, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	h.began = instantOf(now)
}

// LabelDelivery is pipeline.LabelDelivery.
const LabelDelivery = "millrace_delivery"

// calmAhead is up to how many entries a consumer reads ahead and still has time for labels: it handles
// 1,000 deliveries a second then.
const calmAhead = int(aheadFor / time.Millisecond)

// Goroutines returns the stacks of all goroutines, with their labels.
func Goroutines() string {
	var all bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&all, 1); err != nil {
		return ""
	}
	return all.String()
}

// StackOf finds the stack of the goroutine that handles an event; empty where none says that it does.
func StackOf(goroutines, id string) string {
	label := fmt.Sprintf("%q:%q", LabelDelivery, id)
	for block := range strings.SplitSeq(goroutines, "\n\n") {
		if strings.Contains(block, label) {
			return shortened(block, maxStack)
		}
	}
	return ""
}
