package chaos

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Run is one run of a handler.
type Run struct {
	Group, ID string
	Attempt   int
	Process   int // PID
	Begin     time.Time
	End       time.Time // zero: the process did not get that far
	Failed    bool
}

// Trouble is what the driver did to a process, or to what all of them stand on.
type Trouble struct {
	What       string // killed, frozen, stopped, redis …, group destroyed
	Process    int    // PID; 0: no worker
	Begin, End time.Time
}

// Ledger is all that is known at the end.
type Ledger struct {
	Published map[string]bool            // events that were stored for sure
	Runs      []Run                      // in any order
	Dead      map[string]map[string]bool // by group: events that are dead letters
	Trouble   []Trouble
	Grace     time.Duration // how long after the end of a handler its process may be killed before the result has reached Redis
}

// Finding is a rule that was broken, with all that is known about the event.
type Finding struct {
	Rule, Group, ID string
	Runs            []Run
	Trouble         []Trouble // of the processes of the runs, and of Redis, at that time
}

func (f Finding) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: event %s of group %s", f.Rule, f.ID, f.Group)
	for _, r := range f.Runs {
		end := "did not end"
		if !r.End.IsZero() {
			end = r.End.Format("05.000")
		}
		fmt.Fprintf(&b, "\n    process %d, attempt %d: %s to %s, failed %v", r.Process, r.Attempt, r.Begin.Format("15:04:05.000"), end, r.Failed)
	}
	for _, t := range f.Trouble {
		fmt.Fprintf(&b, "\n    %s, process %d: %s to %s", t.What, t.Process, t.Begin.Format("15:04:05.000"), t.End.Format("05.000"))
	}
	return b.String()
}

// around returns what was done to the processes of some runs, and to Redis, around them.
func (l Ledger) around(runs []Run) (around []Trouble) {
	const before, after = 10 * time.Second, time.Second
	for _, t := range l.Trouble {
		concerned := t.Process == 0 || slices.ContainsFunc(runs, func(r Run) bool { return r.Process == t.Process })
		if concerned && t.End.After(runs[0].Begin.Add(-before)) && t.Begin.Before(runs[len(runs)-1].Begin.Add(after)) {
			around = append(around, t)
		}
	}
	return around
}

// Result is what an account comes to.
type Result struct {
	Handled  map[string]int // events, by group
	Dead     map[string]int // by group
	Excused  map[string]int // repeated runs, by excuse
	Longest  time.Duration  // from the death of a process until what it was handling ran again
	Waited   Finding        // the event that waited so long
	Late     int            // runs of a killed process that did not run again soon, though nothing else was broken
	Findings []Finding      // empty: all is well
}

const (
	// reconnect is how long after Redis was away results that wait are written at the latest.
	reconnect = 1500 * time.Millisecond
	// standstill is how long a process must be frozen before its peers may take over from it: three beats of 2 s, of which one may have passed since
	// its last, and half a second for a beat that was late.
	standstill = 3500 * time.Millisecond
	// soon is how long after the death of a process what it was handling runs again at the latest: 10 s, and two for a machine
	// that is busy.
	soon = 12 * time.Second
	// destroyed is how long after a group was destroyed its events may come again that stood above the frontier.
	destroyed = 30 * time.Second
)

// Account holds what was published against what was handled. Each event that was stored must have been handled by each group, or be a dead
// letter of it. A run after one that had succeeded, or beside one, needs an excuse: the process of the earlier one was killed while it ran or
// within the grace after it, or stood still then for so long that a peer took over, or the group was destroyed later. Where Redis was away when it
// ended, the grace begins when Redis is back and has been connected to again: nothing can be acknowledged before.
func Account(l Ledger) Result {
	r := Result{Handled: map[string]int{}, Dead: map[string]int{}, Excused: map[string]int{}}
	type key struct{ group, id string }
	byEvent := map[key][]Run{}
	for _, run := range l.Runs {
		k := key{run.Group, run.ID}
		byEvent[k] = append(byEvent[k], run)
	}
	for group, dead := range l.Dead {
		r.Dead[group] = len(dead)
	}
	for _, group := range []string{Steady, Flaky} {
		for id := range l.Published {
			if len(byEvent[key{group, id}]) == 0 && !l.Dead[group][id] {
				r.Findings = append(r.Findings, Finding{Rule: "missing", Group: group, ID: id})
			}
		}
	}
	for k, runs := range byEvent {
		slices.SortFunc(runs, func(a, b Run) int { return cmp.Compare(a.Begin.UnixNano(), b.Begin.UnixNano()) })
		r.judge(l, k.group, k.id, runs)
	}
	slices.SortFunc(r.Findings, func(a, b Finding) int { return cmp.Or(cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.ID, b.ID)) })
	return r
}

// judge looks at all runs of one event in one group, in the order of their begins.
func (r *Result) judge(l Ledger, group, id string, runs []Run) {
	find := func(rule string) { r.Findings = append(r.Findings, Finding{rule, group, id, runs, l.around(runs)}) }
	handled, failures, disturbed := false, 0, false
	for i, run := range runs {
		excuse := l.excuse(run)
		ended := !run.End.IsZero()
		if !ended && excuse == "" {
			find("never ended")
		}
		if next := i + 1; next < len(runs) {
			overlaps := !ended || runs[next].Begin.Before(run.End)
			switch succeeded := ended && !run.Failed; {
			case (succeeded || overlaps) && excuse == "":
				find("handled again without an excuse")
			case succeeded || overlaps:
				r.Excused[excuse]++
			}
			if !ended && excuse == "killed" {
				wait := runs[next].Begin.Sub(l.deathOf(run.Process))
				if wait > r.Longest {
					r.Longest, r.Waited = wait, Finding{"waited longest", group, id, runs, l.around(runs)}
				}
				if runs[next].Begin.After(l.again(run.Process)) {
					r.Late++
					find("ran again late")
				}
			}
		}
		if !disturbed && run.Attempt != failures+1 {
			find(fmt.Sprintf("attempt %d after %d failures", run.Attempt, failures))
		}
		disturbed = disturbed || excuse != ""
		if ended && run.Failed {
			failures++
		}
		handled = handled || ended && !run.Failed
	}
	if handled {
		r.Handled[group]++
	} else if l.Published[id] && !l.Dead[group][id] {
		find("never handled")
	}
}

// excuse says why what comes after the run may be a repetition; empty: nothing does.
func (l Ledger) excuse(run Run) string {
	end := l.written(run)
	for _, t := range l.Trouble {
		switch {
		case t.What == "group destroyed" && (run.End.IsZero() || t.Begin.After(run.Begin) && t.Begin.Before(run.End.Add(destroyed))):
			return t.What
		case t.Process != run.Process:
		case t.What == "killed" && (run.End.IsZero() || !t.Begin.After(end)) && !t.End.Before(run.Begin): // it may begin something until it is dead
			return t.What
		case t.What == "frozen" && t.End.Sub(t.Begin) >= standstill && (run.End.IsZero() || t.Begin.Before(end)) && t.End.After(run.Begin):
			return t.What
		}
	}
	return ""
}

// written is when the result of a run has reached Redis at the latest.
func (l Ledger) written(run Run) time.Time {
	at := run.End.Add(l.Grace)
	for _, t := range l.Trouble { // in the order of their begins
		if strings.HasPrefix(t.What, "redis") && !t.Begin.After(at) && t.End.Add(reconnect).After(run.End) {
			at = later(at, t.End.Add(reconnect))
		}
	}
	return at
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// again is when what a killed process was handling must run again at the latest. Whatever else was broken meanwhile, Redis or a
// peer that may have had it by then, delays that: the time begins anew when it is over.
func (l Ledger) again(process int) time.Time {
	at := l.deathOf(process).Add(soon)
	for _, t := range l.Trouble { // in the order of their begins
		if t.Process != process && t.Begin.Before(at) && t.End.Add(soon).After(at) {
			at = t.End.Add(soon)
		}
	}
	return at
}

func (l Ledger) deathOf(process int) time.Time {
	for _, t := range l.Trouble {
		if t.Process == process && t.What == "killed" {
			return t.Begin
		}
	}
	return time.Time{}
}
