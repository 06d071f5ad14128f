package pipeline

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// HealthLimits say from when on health calls something a problem. A field that is 0 has its default; a
// negative one switches its problem off.
type HealthLimits struct {
	// LagWarning and LagError are for how long an event may stand in a stream before a group gets it: a
	// warning and an error of code group-lag. Default: 1 min and 10 min.
	LagWarning, LagError time.Duration
	// PendingWarning is for how long a consumer may hold a delivery before that is a warning of code
	// delivery-pending; twice the timeout of its handlers where that is more. Default: 5 min. From 10 min
	// on it is an error, delivery-unsettled.
	PendingWarning time.Duration
	// DeadPercent is how many of a hundred events of the last hour may be dead letters of a group before
	// its warning of code dead-letters, which any dead letter is, becomes an error. Default: 1.
	DeadPercent float64
}

func (l HealthLimits) withDefaults() HealthLimits {
	setDefault(&l.LagWarning, time.Minute)
	setDefault(&l.LagError, 10*time.Minute)
	setDefault(&l.PendingWarning, 5*time.Minute)
	setDefault(&l.DeadPercent, 1)
	return l
}

// lagProblem says that events wait for a group. While it is paused that is what was wanted, and a problem
// of its own.
func (h *Health) lagProblem(stream string, g redisstream.GroupInfo, limits HealthLimits) {
	severity := ""
	switch age := g.Undelivered; {
	case g.Paused != "" || age == 0:
	case limits.LagError > 0 && age > limits.LagError && len(g.Patterns) > 0: // what groups of other software are for nobody knows
		severity = SeverityError
	case limits.LagWarning > 0 && age > limits.LagWarning:
		severity = SeverityWarning
	}
	if severity == "" {
		return
	}
	events := "events"
	if g.Lag > 0 {
		events = fmt.Sprintf("%d events", g.Lag)
	}
	h.problem("group-lag", severity, fmt.Sprintf("%s of stream %s wait for group %s, the first one for %s",
		events, stream, g.Name, g.Undelivered.Round(time.Second)),
		"start more workers of this group, raise their concurrency, or find out what their handlers wait for")
}

// deadProblem says that a group has given events up.
func (h *Health) deadProblem(stream string, info redisstream.StreamInfo, g redisstream.GroupInfo, limits HealthLimits) {
	if g.Dead == 0 || limits.DeadPercent < 0 {
		return
	}
	severity := SeverityWarning
	text := fmt.Sprintf("group %s of stream %s has %d dead letters", g.Name, stream, g.Dead)
	if g.NewDead > 0 {
		passed := passedSince(info, g.NewDeadSince)
		text += fmt.Sprintf(", %d of them since %s, of about %d events", g.NewDead, g.NewDeadSince.UTC().Format(time.RFC3339), passed)
		if float64(g.NewDead) > limits.DeadPercent/100*float64(passed) {
			severity = SeverityError
		}
	}
	h.problem("dead-letters", severity, text, "look at why, mend that, and requeue or discard them: millrace dead ls "+stream+" "+g.Name)
}

// passedSince is about how many events a group has handled of a stream since then: as many as came, or as
// many as come in such a time, since those that are given up now came hours ago.
func passedSince(info redisstream.StreamInfo, since time.Time) int64 {
	usual := 0.0
	if age := time.Since(info.First.Time()); age > 0 {
		usual = float64(info.Length) * min(1, float64(time.Since(since))/float64(age))
	}
	return max(info.AddedSince(since), int64(usual))
}

// versionsProblem says that consumers of several versions work for a group, once for all its streams.
func (h *Health) versionsProblem(stream string, g redisstream.GroupInfo, told map[string]bool) {
	if told[g.Name] {
		return
	}
	hosts := map[string]int{} // consumers by version
	var versions []string
	for _, m := range g.Members {
		if !m.Alive {
			continue
		}
		about := aboutOf(m)
		if about == nil || about.Version == "" {
			continue
		}
		if hosts[about.Version]++; hosts[about.Version] == 1 {
			versions = append(versions, about.Version)
		}
	}
	if len(versions) < 2 {
		return
	}
	told[g.Name] = true
	slices.Sort(versions)
	for i, v := range versions {
		versions[i] = fmt.Sprintf("%s (%d)", v, hosts[v])
	}
	h.problem("two-versions", SeverityWarning, fmt.Sprintf("consumers of %d versions work for group %s, at stream %s for one: %s",
		len(versions), g.Name, stream, strings.Join(versions[:min(len(versions), maxNamed)], ", ")), "is a deploy under way, or was an instance forgotten?")
}
