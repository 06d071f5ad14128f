package memstream

import (
	"context"
	"slices"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

func (m *Memory) Bury(_ context.Context, c redisstream.Consumer, stream string, bounds redisstream.Bounds, burials []redisstream.Burial) (settled []redisstream.Settled, dropped int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	settled = make([]redisstream.Settled, len(burials))
	g := m.group(stream, c.Group)
	for i, b := range burials {
		if g == nil || g.pending[b.Ref] == nil || g.pending[b.Ref].consumer != c.Name {
			settled[i] = redisstream.LeaseLost
			continue
		}
		fields := b.Message.Entry(redisstream.ID{}).Fields()
		if original := m.streams[stream].log.between(b.Original, b.Original); len(original) == 1 {
			fields = original[0].Fields()
		} else if p := g.pending[b.Ref]; !b.Lane {
			fields = p.entry.Fields()
		}
		fields = append(slices.Clone(fields), redisstream.FieldDead, b.Report)
		g.dead.add(redisstream.NewEntry(g.dead.next(1), fields))
		dropped += g.dropDead(bounds, time.Now())
		g.settle(b.Ref, c.Name)
		g.failures.count(c.Name, b.Failure, time.Now())
	}
	return settled, dropped, nil
}

// dropDead drops the dead letters beyond the bounds and returns how many.
func (g *groupState) dropDead(bounds redisstream.Bounds, now time.Time) int {
	oldest := redisstream.ID{MS: uint64(now.Add(-bounds.Age).UnixMilli())}
	n := max(g.dead.len()-int(bounds.Length), g.dead.index(oldest))
	if n <= 0 {
		return 0
	}
	g.dead.drop(n)
	g.deadLost += int64(n)
	return n
}

// Lose settles a delivery whose entry is gone. Here the pending delivery keeps its entry, so there is none.
func (m *Memory) Lose(context.Context, redisstream.Consumer, redisstream.Ref) error { return nil }

func (m *Memory) Dead(_ context.Context, stream, group string, from, to redisstream.ID, count int, reverse bool) ([]redisstream.Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.group(stream, group)
	if g == nil {
		return nil, nil
	}
	return page(g.dead.between(from, to), count, reverse), nil
}

func (m *Memory) Discard(_ context.Context, stream, group string, ids []redisstream.ID) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.group(stream, group)
	if g == nil {
		return 0, nil
	}
	before := g.dead.len()
	for _, id := range ids {
		g.dead.remove(id)
	}
	return before - g.dead.len(), nil
}

func (m *Memory) DeadAt(_ context.Context, stream, group string, ids []redisstream.ID, bytes int) (letters []redisstream.Entry, looked int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.group(stream, group)
	if g == nil {
		return nil, len(ids), nil
	}
	for _, id := range ids {
		for _, letter := range g.dead.between(id, id) {
			if bytes -= letter.Size(); bytes < 0 && len(letters) > 0 {
				return letters, looked, nil
			}
			letters = append(letters, letter)
		}
		looked++
	}
	return letters, looked, nil
}

func (m *Memory) Requeue(ctx context.Context, stream, group string, copies []redisstream.Copy) ([]redisstream.Settled, error) {
	settled := make([]redisstream.Settled, len(copies))
	for i, one := range copies {
		done, looked, err := m.Enqueue(ctx, stream, group, []redisstream.Copy{one})
		switch {
		case err != nil:
			for j := range settled {
				settled[j] = redisstream.Unknown
			}
			return settled, err // there is no such group, and none was requeued
		case done == 1:
			settled[i] = redisstream.Done
		case looked == 1:
			settled[i] = redisstream.LeaseLost
		default:
			settled[i] = redisstream.Full
		}
	}
	return settled, nil
}

func (m *Memory) Enqueue(_ context.Context, stream, group string, copies []redisstream.Copy) (done, looked int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.group(stream, group)
	if g == nil {
		return 0, 0, ErrUnknownGroup
	}
	for _, one := range copies {
		if g.lane.len() >= m.groupBound {
			break
		}
		if looked++; !one.Dead.IsZero() {
			if len(g.dead.between(one.Dead, one.Dead)) == 0 {
				continue
			}
			g.dead.remove(one.Dead)
		}
		g.lane.add(one.Message.Entry(g.lane.next(1)))
		done++
	}
	m.wake(stream)
	return done, looked, nil
}

func (m *Memory) Deferred(_ context.Context, stream, group string) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if g := m.group(stream, group); g != nil {
		return len(g.deferred), nil
	}
	return 0, nil
}

func (m *Memory) RetryNow(_ context.Context, stream, group string) (moved int, full bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.group(stream, group)
	if g == nil {
		return 0, false, ErrUnknownGroup
	}
	moved = min(len(g.deferred), max(0, m.groupBound-g.lane.len()))
	soonest := len(g.deferred) - moved // those due soonest are left
	for _, d := range g.deferred[soonest:] {
		g.lane.add(d.message.Entry(g.lane.next(1)))
	}
	clear(g.deferred[soonest:])
	g.deferred = g.deferred[:soonest]
	m.wake(stream)
	return moved, soonest > 0, nil
}

func (m *Memory) Pause(_ context.Context, stream, group, seen, text string) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.group(stream, group)
	if g == nil {
		return false, ErrUnknownGroup
	}
	if g.paused != seen {
		return false, nil
	}
	if g.paused = text; text == "" {
		g.since = time.Now()
	}
	g.failures = failureRecord{}
	return true, nil
}
