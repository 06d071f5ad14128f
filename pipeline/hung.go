package pipeline

import (
	"bytes"
	"fmt"
	"maps"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

const (
	// hungAfter is how long a handler may run that has no time limit, before that is a problem. One that
	// is meant to run longer has a Policy.Timeout that says so.
	hungAfter = 10 * time.Minute
	// maxStuck is the most handlers that a report names for running too long.
	maxStuck = 10
)

// overdueHandler is a handler of this process that runs for longer than it may.
type overdueHandler struct {
	of    *holding
	since time.Time
	stack string // as it was when the handler got stuck; empty: not looked at yet
}

// overdue returns the handlers of a consumer that run for longer than they may: for twice Policy.Timeout,
// or for longer than the given time where there is none.
func (c *consumer) overdue(now time.Time, longest time.Duration) []overdueHandler {
	if c.cfg.Policy.Timeout == 0 {
		return c.holdings.running(now.Add(-longest))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var handlers []overdueHandler
	for of, stuck := range c.stuckHandlers {
		handlers = append(handlers, overdueHandler{of: of, since: stuck.since, stack: stuck.stack})
	}
	return handlers
}

// running returns the handlers that began before the given time and have not returned.
func (w *holdings) running(before time.Time) (handlers []overdueHandler) {
	w.mu.Lock()
	defer w.mu.Unlock()
	look := func(h *holding) {
		switch h.state {
		case heldHanded, heldRunning, heldLent, heldLost:
			if !h.began.IsZero() && h.began.Before(before) {
				handlers = append(handlers, overdueHandler{of: h, since: h.began})
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
func (w *holdings) took(h *holding, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	h.began = now
}

// stuckProblems names the handlers of this process that run for longer than they may, those first that
// have run longest, and returns what they handle.
func (b *Bus) stuckProblems(h *Health) map[redisstream.Ref]bool {
	b.mu.Lock()
	consumers := slices.Collect(maps.Keys(b.consumers))
	b.mu.Unlock()
	var handlers []overdueHandler
	for _, c := range consumers {
		handlers = append(handlers, c.overdue(time.Now(), b.hungAfter)...)
	}
	slices.SortFunc(handlers, func(x, y overdueHandler) int { return x.since.Compare(y.since) })
	known := map[redisstream.Ref]bool{}
	for _, handler := range handlers {
		known[handler.of.ref] = true
	}
	all := ""
	for _, handler := range handlers[:min(len(handlers), maxStuck)] {
		if handler.stack == "" {
			if all == "" {
				all = goroutines()
			}
			handler.stack = stackOf(all, handler.of.Event.ID)
		}
		h.stuckProblem(handler, b.hungAfter)
	}
	if more := len(handlers) - maxStuck; more > 0 {
		h.problem("handler-stuck", SeverityError, fmt.Sprintf("%d more handlers of this process run for longer than they may", more), "")
	}
	return known
}

func (h *Health) stuckProblem(handler overdueHandler, longest time.Duration) {
	of := handler.of
	text := fmt.Sprintf("handler of group %s of stream %s for %s %s has run since %s, ",
		of.consumer.cfg.Group, of.Stream, of.Event.Type, of.Event.ID, handler.since.UTC().Format(time.RFC3339))
	hint := "handlers must heed the end of their context"
	if timeout := of.consumer.cfg.Policy.Timeout; timeout > 0 {
		text += fmt.Sprintf("longer than twice its timeout of %s", timeout)
	} else {
		text += fmt.Sprintf("longer than %s, and has no timeout", longest)
		hint = "find out what it waits for, and restart the worker; a timeout says how long a handler may run, and ends its context then"
	}
	if handler.stack != "" {
		text += ": " + handler.stack
	}
	h.problem("handler-stuck", SeverityError, text, hint)
}

// pendingProblem says that a consumer holds a delivery of the group for longer than the given times, or
// than twice its timeout where that is more. For one that lives, of whatever process, the longer time is an
// error: its handler hangs, or what it holds does not get its turn. Those in known were named already. A
// pause is a reason to hold on, and has a problem of its own.
func (h *Health) pendingProblem(stream string, g redisstream.GroupInfo, longest, long time.Duration, known map[redisstream.Ref]bool) {
	if g.Paused != "" {
		return
	}
	hangs, warns := map[string]time.Duration{}, map[string]time.Duration{}
	if len(g.Oldest) == 0 {
		return
	}
	for _, m := range g.Members {
		if m.Pending == 0 {
			continue
		}
		twice := time.Duration(0)
		if about := aboutOf(m); about != nil {
			twice = time.Duration(2 * about.TimeoutSeconds * float64(time.Second))
		}
		if m.Alive && m.Beat > 0 {
			hangs[m.Name] = max(longest, twice)
		}
		if long > 0 {
			warns[m.Name] = max(long, twice)
		}
	}
	if !h.heldProblem("delivery-unsettled", SeverityError, stream, g, hangs, known) {
		h.heldProblem("delivery-pending", SeverityWarning, stream, g, warns, known)
	}
}

// heldProblem names the delivery that a consumer holds longest, of those that it holds for longer than it
// may, and reports whether there is one.
func (h *Health) heldProblem(code, severity, stream string, g redisstream.GroupInfo, limits map[string]time.Duration, known map[redisstream.Ref]bool) bool {
	var worst redisstream.Pending
	more := -1
	for _, p := range g.Oldest {
		if limit, counts := limits[p.Consumer]; !counts || p.Idle <= limit || known[p.Ref] {
			continue
		}
		if more++; p.Idle > worst.Idle {
			worst = p
		}
	}
	if more < 0 {
		return false
	}
	of := "stream " + stream
	if worst.Lane {
		of = "the lane of stream " + stream
	}
	text := fmt.Sprintf("consumer %s of group %s holds %s of %s since %s, longer than %s, and has not settled it",
		worst.Consumer, g.Name, worst.ID, of, time.Now().Add(-worst.Idle).UTC().Format(time.RFC3339), limits[worst.Consumer])
	if more > 0 {
		text += fmt.Sprintf("; at least %d more like it", more)
	}
	h.problem(code, severity, text,
		"health of that process has the stack of a handler that hangs; restart it; a timeout says how long a handler may run")
	return true
}

// LabelDelivery is the profiler label under which package router runs handlers; its value is the event ID.
// It is how the stack of one that does not return is found.
const LabelDelivery = "millrace_delivery"

// calmAhead is up to how many entries a consumer reads ahead and still has time for labels: it handles
// 1,000 deliveries a second then.
const calmAhead = int(aheadFor / time.Millisecond)

// Labelled reports whether the handler of the delivery is to run under LabelDelivery. A label costs
// 100 ns and three allocations, so where there is no Policy.Timeout, consumers that handle more than
// about 1,000 deliveries a second go without.
func (d *Delivery) Labelled() bool {
	h := d.holding
	return h != nil && (h.calm || h.consumer.cfg.Policy.Timeout > 0)
}

// goroutines returns the stacks of all goroutines, with their labels.
func goroutines() string {
	var all bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&all, 1); err != nil {
		return ""
	}
	return all.String()
}

// stackOf finds the stack of the goroutine that handles an event; empty where none says that it does.
func stackOf(goroutines, id string) string {
	label := fmt.Sprintf("%q:%q", LabelDelivery, id)
	for block := range strings.SplitSeq(goroutines, "\n\n") {
		if strings.Contains(block, label) {
			return shortened(block, maxStack)
		}
	}
	return ""
}
