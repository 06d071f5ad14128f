package memstream

import (
	"cmp"
	"context"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// groupState is a group of one stream.
type groupState struct {
	since      time.Time      // when it was made, or resumed last
	cursor     redisstream.ID // the last entry that was handed out
	lane       entryLog
	laneCursor redisstream.ID
	pending    map[redisstream.Ref]*pendingEntry
	deferred   []deferredCopy // by due time
	patterns   redisstream.Patterns
	unhandled  map[string]int64
	waiting    map[string][]deferredCopy // by type, the oldest first; due is when they were put aside
	beats      map[string]int64          // by consumer
	lost       int64                     // entries that were dropped before they were handed out
	dead       entryLog
	deadLost   int64
	paused     string
	once       onceMarks
	about      map[string]string // by consumer
	failures   failureRecord
}

// pendingEntry is a delivery that is not settled. It keeps the entry, which the log may drop.
type pendingEntry struct {
	consumer string
	entry    redisstream.Entry
	count    int       // how often it was delivered, as Suspect counts
	since    time.Time // when the consumer got it
}

// deferredCopy is a delivery that waits for its next attempt.
type deferredCopy struct {
	due     time.Time
	message redisstream.Message
}

const (
	// aliveFor is how late the next beat of a consumer may be that counts as alive.
	aliveFor = 3 * redisstream.BeatEvery
)

// group returns a group that is there.
func (m *Memory) group(stream, group string) *groupState {
	if s := m.streams[stream]; s != nil {
		return s.groups[group]
	}
	return nil
}

// clock is the time of beats in milliseconds.
func (m *Memory) clock() int64 { return time.Since(m.begun).Milliseconds() }

func (m *Memory) Join(_ context.Context, c redisstream.Consumer, j redisstream.Join) (redisstream.Joined, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return redisstream.Joined{}, redisstream.ErrClosed
	}
	s := m.stream(j.Stream)
	g := s.groups[c.Group]
	made := g == nil
	if made {
		g = &groupState{
			since: time.Now(), cursor: j.From, pending: map[redisstream.Ref]*pendingEntry{}, unhandled: map[string]int64{},
			waiting: map[string][]deferredCopy{}, beats: map[string]int64{}, about: map[string]string{},
		}
		if j.FromEnd {
			g.cursor = s.log.last
		}
		s.groups[c.Group] = g
	}
	for _, p := range j.Patterns {
		if !slices.Contains(g.patterns.Set, p) {
			g.patterns.Set = append(slices.Clone(g.patterns.Set), p)
			g.patterns.Version++
		}
	}
	g.beats[c.Name] = redisstream.BeatDue(m.clock()+redisstream.BeatEvery.Milliseconds(), redisstream.Say{})
	return redisstream.Joined{Patterns: g.patterns, Made: made, From: g.cursor, Paused: g.paused}, nil
}

// StreamsPerRead: any number.
func (m *Memory) StreamsPerRead() int { return math.MaxInt }

func (m *Memory) Read(ctx context.Context, c redisstream.Consumer, streams []string, count int, block time.Duration) (read []redisstream.Delivered, err error) {
	err = m.await(ctx, block, streams, func() bool {
		for _, stream := range streams {
			if g := m.group(stream, c.Group); g != nil {
				read = append(read, g.hand(c, redisstream.Ref{Stream: stream}, &m.streams[stream].log, &g.cursor, count)...)
				read = append(read, g.hand(c, redisstream.Ref{Stream: stream, Lane: true}, &g.lane, &g.laneCursor, count)...)
			}
		}
		return len(read) > 0
	})
	return read, err
}

// hand gives up to count entries behind the cursor to a consumer.
func (g *groupState) hand(c redisstream.Consumer, ref redisstream.Ref, log *entryLog, cursor *redisstream.ID, count int) []redisstream.Delivered {
	behind := log.between(cursor.Next(), redisstream.MaxID)
	behind = behind[:min(count, len(behind))]
	handed := make([]redisstream.Delivered, len(behind))
	now := time.Now()
	for i, e := range behind {
		ref.ID, *cursor = e.ID, e.ID
		g.pending[ref] = &pendingEntry{c.Name, e, 1, now}
		handed[i] = redisstream.Delivered{Ref: ref, Entry: e}
	}
	return handed
}

// heldBy returns what is pending with a consumer: the stream's entries first, then the lane's, each in order.
func (g *groupState) heldBy(consumer string) []redisstream.Delivered {
	var held []redisstream.Delivered
	for ref, p := range g.pending {
		if p.consumer == consumer {
			held = append(held, redisstream.Delivered{Ref: ref, Entry: p.entry, Count: p.count})
		}
	}
	slices.SortFunc(held, func(a, b redisstream.Delivered) int {
		if a.Lane != b.Lane {
			if b.Lane {
				return -1
			}
			return 1
		}
		return a.ID.Compare(b.ID)
	})
	return held
}

func (m *Memory) ReadInTurn(_ context.Context, c redisstream.Consumer, streams []string, count int) (read []redisstream.Delivered, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, stream := range streams {
		if g := m.group(stream, c.Group); g != nil {
			read = append(read, g.hand(c, redisstream.Ref{Stream: stream, Lane: true}, &g.lane, &g.laneCursor, count-len(read))...)
			read = append(read, g.hand(c, redisstream.Ref{Stream: stream}, &m.streams[stream].log, &g.cursor, count-len(read))...)
		}
	}
	return read, nil
}

func (m *Memory) Held(_ context.Context, c redisstream.Consumer, stream string, behind, laneBehind redisstream.ID, count int) (held []redisstream.Delivered, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.group(stream, c.Group)
	if g == nil {
		return nil, nil
	}
	left := map[bool]int{false: count, true: count}
	for _, d := range g.heldBy(c.Name) {
		bound := behind
		if d.Lane {
			bound = laneBehind
		}
		if d.ID.Compare(bound) > 0 && left[d.Lane] > 0 {
			left[d.Lane]--
			held = append(held, redisstream.Delivered{Ref: d.Ref, Count: d.Count})
		}
	}
	return held, nil
}

func (m *Memory) Load(_ context.Context, group string, refs []redisstream.Ref) ([]redisstream.Delivered, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	loaded := make([]redisstream.Delivered, len(refs))
	for i, ref := range refs {
		loaded[i] = redisstream.Delivered{Ref: ref, Gone: true}
		if g := m.group(ref.Stream, group); g != nil && g.pending[ref] != nil {
			loaded[i].Entry, loaded[i].Gone = g.pending[ref].entry, false
		}
	}
	return loaded, nil
}

// settle ends a delivery and reports whether it was pending with the consumer; "" stands for any.
func (g *groupState) settle(ref redisstream.Ref, consumer string) bool {
	p := g.pending[ref]
	if p == nil || consumer != "" && p.consumer != consumer {
		return false
	}
	delete(g.pending, ref)
	if ref.Lane {
		g.lane.remove(ref.ID)
	}
	return true
}

func (m *Memory) Ack(_ context.Context, c redisstream.Consumer, refs []redisstream.Ref) (settled, left []redisstream.Ref, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, ref := range refs {
		if g := m.group(ref.Stream, c.Group); g != nil {
			g.settle(ref, "")
		}
	}
	return refs, nil, nil
}

func (m *Memory) Retry(_ context.Context, c redisstream.Consumer, stream string, rs []redisstream.Retry) ([]redisstream.Settled, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	settled := make([]redisstream.Settled, len(rs))
	g := m.group(stream, c.Group)
	for i, r := range rs {
		settled[i] = redisstream.LeaseLost
		if g != nil {
			settled[i] = g.retry(c, r, m.groupBound)
		}
	}
	m.wake(stream)
	return settled, nil
}

func (g *groupState) retry(c redisstream.Consumer, r redisstream.Retry, bound int) redisstream.Settled {
	if p := g.pending[r.Ref]; p == nil || p.consumer != c.Name {
		return redisstream.LeaseLost
	}
	switch {
	case r.Delay > 0 && len(g.deferred) >= bound, r.Delay <= 0 && !r.Lane && g.lane.len() >= bound:
		return redisstream.Full
	case r.Delay > 0:
		d := deferredCopy{time.Now().Add(r.Delay), r.Message}
		at, _ := slices.BinarySearchFunc(g.deferred, d, func(a, b deferredCopy) int {
			if a.due.After(b.due) {
				return 1
			}
			return -1 // what is due at the same time stays in the order of its coming
		})
		g.deferred = slices.Insert(g.deferred, at, d)
	default:
		g.lane.add(r.Message.Entry(g.lane.next(1)))
	}
	g.settle(r.Ref, c.Name)
	g.failures.count(c.Name, r.Failure, time.Now())
	return redisstream.Done
}

func (m *Memory) Skip(_ context.Context, c redisstream.Consumer, stream string, skips []redisstream.Skip, version int64) (redisstream.Settled, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.group(stream, c.Group)
	if g == nil {
		return redisstream.Done, nil
	}
	if g.patterns.Version != version {
		return redisstream.Changed, nil
	}
	for _, s := range skips {
		if g.settle(s.Ref, c.Name) {
			g.countUnhandled(s.Type)
		}
	}
	return redisstream.Done, nil
}

func (g *groupState) countUnhandled(eventType string) {
	_, known := g.unhandled[eventType]
	if !known && len(g.unhandled) >= redisstream.UnhandledTypes {
		eventType = redisstream.UnhandledOthers
	}
	g.unhandled[eventType]++
}

func (m *Memory) Beat(_ context.Context, c redisstream.Consumer, stream string, say redisstream.Say) (redisstream.Beat, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := redisstream.Beat{Run: "memory"}
	g := m.group(stream, c.Group)
	if g == nil {
		return b, nil
	}
	m.promote(stream, g)
	now := m.clock()
	g.beats[c.Name] = redisstream.BeatDue(now+cmp.Or(say.Next, redisstream.BeatEvery).Milliseconds(), say)
	if say.About != "" {
		g.about[c.Name] = say.About
	}
	b.Patterns, b.Waiting, b.Paused = g.patterns, int64(g.waitingCount()), g.paused
	b.Unknown, b.Pending, b.Members = g.about[c.Name] == "", int64(len(g.heldBy(c.Name))), len(g.beats)
	b.Full = g.waitingCount() >= m.groupBound
	b.Failing = len(g.failures.rows) > 0
	for name, beat := range g.beats {
		due := time.Duration(beat-now) * time.Millisecond
		if name != c.Name && (say.AllPeers || due <= redisstream.BeatEvery) {
			b.Peers = append(b.Peers, redisstream.Peer{Name: name, Beat: beat, Due: due})
		}
	}
	return b, nil
}

func (m *Memory) Promote(_ context.Context, stream, group string) (redisstream.Promoted, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.group(stream, group)
	if g == nil {
		return redisstream.Promoted{Next: -1}, nil
	}
	return m.promote(stream, g), nil
}

// promote moves what is due to the lane. The lock is held.
func (m *Memory) promote(stream string, g *groupState) redisstream.Promoted {
	now, p := time.Now(), redisstream.Promoted{Next: -1}
	for p.Moved < len(g.deferred) && !g.deferred[p.Moved].due.After(now) {
		g.lane.add(g.deferred[p.Moved].message.Entry(g.lane.next(1)))
		p.Moved++
	}
	clear(g.deferred[:p.Moved])
	g.deferred = g.deferred[p.Moved:]
	if len(g.deferred) > 0 {
		p.Next = g.deferred[0].due.Sub(now)
	}
	if p.Moved > 0 {
		m.wake(stream)
	}
	return p
}

func (m *Memory) TakeOver(_ context.Context, c redisstream.Consumer, stream string, p redisstream.Peer, most redisstream.Most) ([]redisstream.Delivered, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.group(stream, c.Group)
	if g == nil {
		return nil, nil
	}
	if beat, ok := g.beats[p.Name]; !ok || beat != p.Beat {
		return nil, nil
	}
	held := g.heldBy(p.Name)
	if len(held) < most.Entries {
		delete(g.beats, p.Name)
		delete(g.about, p.Name)
	}
	held = held[:min(len(held), most.Entries)]
	for i := range held {
		pending := g.pending[held[i].Ref]
		pending.consumer, pending.since = c.Name, time.Now()
		held[i].Claimed = true
	}
	return held, nil
}

func (m *Memory) Leave(_ context.Context, c redisstream.Consumer, stream string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.group(stream, c.Group)
	if g == nil {
		return nil
	}
	if len(g.heldBy(c.Name)) > 0 {
		g.beats[c.Name] = redisstream.Left
	} else {
		delete(g.beats, c.Name)
		delete(g.about, c.Name)
	}
	return nil
}

func (m *Memory) Raise(_ context.Context, c redisstream.Consumer, stream string, suspects []redisstream.Suspect) (gone []redisstream.Ref, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.group(stream, c.Group)
	for _, s := range suspects {
		if g == nil || g.pending[s.Ref] == nil || g.pending[s.Ref].consumer != c.Name {
			gone = append(gone, s.Ref)
			continue
		}
		p := g.pending[s.Ref]
		p.count = max(p.count, s.Count+1)
	}
	return gone, nil
}

func (m *Memory) Lower(_ context.Context, c redisstream.Consumer, stream string, suspects []redisstream.Suspect) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.group(stream, c.Group)
	for _, s := range suspects {
		if g == nil || g.pending[s.Ref] == nil || g.pending[s.Ref].consumer != c.Name {
			continue
		}
		if p := g.pending[s.Ref]; p.count == s.Count+1 {
			p.count = s.Count
		}
	}
	return nil
}

// Strangers: there are none in a process of ours.
func (m *Memory) Strangers(context.Context, redisstream.Consumer, string, time.Duration, redisstream.Most) ([]redisstream.Delivered, error) {
	return nil, nil
}

func (m *Memory) Renew(_ context.Context, c redisstream.Consumer, stream string, refs []redisstream.Ref) (gone []redisstream.Ref, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.group(stream, c.Group)
	for _, ref := range refs {
		if g == nil || g.pending[ref] == nil || g.pending[ref].consumer != c.Name {
			gone = append(gone, ref)
		}
	}
	return gone, nil
}

func (m *Memory) Groups(_ context.Context, stream string) ([]redisstream.GroupInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.streams[stream]
	if s == nil {
		return nil, nil
	}
	var infos []redisstream.GroupInfo
	for _, name := range slices.Sorted(maps.Keys(s.groups)) {
		infos = append(infos, s.groups[name].info(name, s, m.clock()))
	}
	return infos, nil
}

func (m *Memory) Describe(ctx context.Context, streams []string) []redisstream.Description {
	described := make([]redisstream.Description, len(streams))
	for i, stream := range streams {
		described[i].Stream = stream
		described[i].Info, _ = m.Info(ctx, stream) // neither can fail
		described[i].Groups, _ = m.Groups(ctx, stream)
	}
	return described
}

// newDead counts the dead letters of the last hour.
func (g *groupState) newDead(now time.Time) (int64, time.Time) {
	since := now.Add(-time.Hour)
	return int64(len(g.dead.between(redisstream.ID{MS: uint64(since.UnixMilli())}, redisstream.MaxID))), since
}

func (g *groupState) info(name string, s *streamState, now int64) redisstream.GroupInfo {
	info := redisstream.GroupInfo{
		Name: name, Consumers: len(g.beats), LastDelivered: g.cursor, Lag: int64(s.log.len() - s.log.after(g.cursor)), Lost: g.lost,
		Deferred: int64(len(g.deferred) + g.waitingCount()), Lane: int64(g.lane.len()), Patterns: g.patterns.Set, Unhandled: maps.Clone(g.unhandled),
		Waits: int64(g.waitingCount()), Waiting: g.waitingSince(), Dead: int64(g.dead.len()), DeadLost: g.deadLost, Frontier: g.cursor, Paused: g.paused,
	}
	if next := s.log.between(g.cursor.Next(), redisstream.MaxID); len(next) > 0 {
		info.Undelivered = max(0, min(time.Since(next[0].ID.Time()), time.Since(g.since)))
	}
	info.NewDead, info.NewDeadSince = g.newDead(time.Now())
	held := map[string]int64{}
	for _, p := range g.pending {
		held[p.consumer]++
	}
	for _, name := range slices.Sorted(maps.Keys(g.beats)) {
		beat := g.beats[name]
		member := redisstream.Member{Name: name, Beat: beat, Pending: held[name], About: g.about[name]}
		if member.Alive = beat != redisstream.Left && now-beat < aliveFor.Milliseconds(); member.Alive {
			info.Alive++
		}
		info.Members = append(info.Members, member)
	}
	for ref, p := range g.pending {
		info.Oldest = append(info.Oldest, redisstream.Pending{Ref: ref, Consumer: p.consumer, Idle: time.Since(p.since)})
		if ref.Lane {
			continue // counted with the lane
		}
		info.Pending++
		if info.OldestPending.IsZero() || ref.ID.Compare(info.OldestPending) < 0 {
			info.OldestPending = ref.ID
		}
	}
	slices.SortFunc(info.Oldest, func(a, b redisstream.Pending) int { return cmp.Compare(b.Idle, a.Idle) })
	info.Oldest = info.Oldest[:min(len(info.Oldest), redisstream.OldestListed)]
	return info
}
