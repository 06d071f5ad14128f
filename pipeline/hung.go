package pipeline

import (
	"fmt"
	"slices"
	"time"

	"github.com/rishi-platform/millrace/internal/group"
	"github.com/rishi-platform/millrace/internal/redisstream"
)

const (
	// hungAfter is how long a handler may run that has no time limit, before that is a problem. One that
	// is meant to run longer has a Policy.Timeout that says so.
	hungAfter = 10 * time.Minute
	// maxStuck is the most handlers that a report names for running too long.
	maxStuck = 10
)

// stuckProblems names the handlers of this process that run for longer than they may, those first that
// have run longest, and returns what they handle.
func (b *Bus) stuckProblems(h *Health) map[redisstream.Ref]bool {
	var handlers []group.Overdue
	for _, c := range b.consuming() {
		handlers = append(handlers, c.Overdue(time.Now(), b.hungAfter)...)
	}
	slices.SortFunc(handlers, func(x, y group.Overdue) int { return x.Since.Compare(y.Since) })
	known := map[redisstream.Ref]bool{}
	for _, handler := range handlers {
		known[handler.Of.Ref()] = true
	}
	all := ""
	for _, handler := range handlers[:min(len(handlers), maxStuck)] {
		if handler.Stack == "" {
			if all == "" {
				all = group.Goroutines()
			}
			handler.Stack = group.StackOf(all, handler.Of.Event.ID)
		}
		h.stuckProblem(handler, b.hungAfter)
	}
	if more := len(handlers) - maxStuck; more > 0 {
		h.problem("handler-stuck", SeverityError, fmt.Sprintf("%d more handlers of this process run for longer than they may", more), "")
	}
	return known
}

func (h *Health) stuckProblem(handler group.Overdue, longest time.Duration) {
	of, c := handler.Of, handler.By
	text := fmt.Sprintf("handler of group %s of stream %s for %s %s has run since %s, ",
		c.Group(), of.Stream(), of.Event.Type, of.Event.ID, handler.Since.UTC().Format(time.RFC3339))
	hint := "handlers must heed the end of their context"
	if timeout := c.Timeout(); timeout > 0 {
		text += fmt.Sprintf("longer than twice its timeout of %s", timeout)
	} else {
		text += fmt.Sprintf("longer than %s, and has no timeout", longest)
		hint = "find out what it waits for, and restart the worker; a timeout says how long a handler may run, and ends its context then"
	}
	if handler.Stack != "" {
		text += ": " + handler.Stack
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

// Labelled reports whether the handler of the delivery is to run under LabelDelivery. A label costs
// 100 ns and three allocations, so where there is no Policy.Timeout, consumers that handle more than
// about 1,000 deliveries a second go without.
func (d *Delivery) Labelled() bool { return d.holding != nil && d.holding.Labelled() }
