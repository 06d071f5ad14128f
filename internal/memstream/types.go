package memstream

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

func (m *Memory) LetWait(
	_ context.Context, c redisstream.Consumer, stream string, waits []redisstream.Wait, version int64,
) ([]redisstream.Settled, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	settled := make([]redisstream.Settled, len(waits))
	g := m.group(stream, c.Group)
	for i, w := range waits {
		switch {
		case g == nil:
			settled[i] = redisstream.LeaseLost
		case g.patterns.Version != version:
			settled[i] = redisstream.Changed
		default:
			settled[i] = g.letWait(c, w, m.groupBound)
		}
	}
	return settled, nil
}

func (g *groupState) letWait(
	c redisstream.Consumer, w redisstream.Wait, bound int,
) redisstream.Settled {
	switch p := g.pending[w.Ref]; {
	case p == nil || p.consumer != c.Name:
		return redisstream.LeaseLost
	case g.waitingCount() >= bound:
		return redisstream.Full
	}
	g.waiting[w.Type] = append(g.waiting[w.Type], deferredCopy{time.Now(), w.Message})
	g.settle(w.Ref, c.Name)
	return redisstream.Done
}

func (g *groupState) waitingCount() int {
	n := 0
	for _, of := range g.waiting {
		n += len(of)
	}
	return n
}

func (m *Memory) WaitingTypes(
	_ context.Context, stream, group, prefix, after string, most int,
) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.group(stream, group)
	if g == nil {
		return nil, nil
	}
	types := slices.DeleteFunc(slices.Sorted(maps.Keys(g.waiting)), func(t string) bool {
		return t <= after || !strings.HasPrefix(t, prefix)
	})
	return types[:min(most, len(types))], nil
}

func (g *groupState) waitingSince() map[string]time.Time {
	since := map[string]time.Time{}
	for eventType, of := range g.waiting {
		since[eventType] = of[0].due
	}
	return since
}

func (m *Memory) Fetch(
	_ context.Context, c redisstream.Consumer, stream string, types []string, count int,
) ([]redisstream.Delivered, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.group(stream, c.Group)
	if g == nil {
		return nil, nil
	}
	moved := 0
	for _, t := range types {
		of := g.waiting[t]
		n := min(count-moved, len(of))
		for _, w := range of[:n] {
			g.lane.add(w.message.Entry(g.lane.next(1)))
		}
		moved += n
		if g.waiting[t] = of[n:]; len(g.waiting[t]) == 0 {
			delete(g.waiting, t)
		}
	}
	if moved == 0 {
		return nil, nil
	}
	lane := redisstream.Ref{Stream: stream, Lane: true}
	return g.hand(c, lane, &g.lane, &g.laneCursor, count), nil
}

func (m *Memory) Forget(
	_ context.Context, stream, group string, f redisstream.Forget,
) (redisstream.Forgotten, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.group(stream, group)
	if g == nil {
		return redisstream.Forgotten{}, ErrUnknownGroup
	}
	result, consumer := g.mayForget(f, m.clock()-aliveFor.Milliseconds())
	if result == redisstream.Forgot && !f.DryRun {
		is := func(p string) bool { return p == f.Pattern }
		g.patterns.Set = slices.DeleteFunc(slices.Clone(g.patterns.Set), is)
		g.patterns.Version++
	}
	return redisstream.Forgotten{Result: result, Consumer: consumer, Patterns: g.patterns}, nil
}

// mayForget says whether the group may forget a pattern: no consumer that has beaten since then
// handles it.
func (g *groupState) mayForget(
	f redisstream.Forget, since int64,
) (result redisstream.ForgetResult, consumer string) {
	if !slices.Contains(g.patterns.Set, f.Pattern) {
		return redisstream.NotTaken, ""
	}
	for _, name := range slices.Sorted(maps.Keys(g.beats)) {
		if g.beats[name] == redisstream.Left || g.beats[name] < since {
			continue
		}
		about := struct {
			Patterns []string `json:"patterns"`
		}{}
		if json.Unmarshal([]byte(g.about[name]), &about) != nil {
			return redisstream.NotSaidYet, name
		}
		if len(about.Patterns) == 0 {
			about.Patterns = f.Default
		}
		if slices.Contains(about.Patterns, f.Pattern) {
			return redisstream.StillHandled, name
		}
	}
	if len(g.patterns.Set) == 1 {
		return redisstream.NothingElse, ""
	}
	return redisstream.Forgot, ""
}

func (m *Memory) DropWaiting(
	_ context.Context, stream, group, eventType string, version int64,
) (dropped int, s redisstream.Settled, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.group(stream, group)
	if g == nil || g.patterns.Version != version {
		return 0, redisstream.Changed, nil
	}
	dropped = len(g.waiting[eventType])
	for range dropped {
		g.countUnhandled(eventType)
	}
	delete(g.waiting, eventType)
	return dropped, redisstream.Done, nil
}

func (m *Memory) CountWaiting(
	_ context.Context, stream, group string, types []string,
) (n int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if g := m.group(stream, group); g != nil {
		for _, t := range types {
			n += len(g.waiting[t])
		}
	}
	return n, nil
}
