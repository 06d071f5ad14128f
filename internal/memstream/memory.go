// Package memstream keeps streams and their groups in the memory of this process, by the rules of
// internal/redisstream.
package memstream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// Memory is the transport in process: per stream a bounded log with a cursor per group, and the settlement rules of Redis. It
// serves where there is no Redis, and keeps what this process keeps itself where there is. Nothing of it survives the process.
//
// A log beyond its bound drops its oldest entries. A group that had not been given them has lost them, and that is counted; what is pending
// keeps its own copy of the entry.
type Memory struct {
	maxLen     int
	groupBound int // of lane and deferred deliveries of a group
	begun      time.Time

	mu      sync.Mutex // guards what follows, and everything in it
	streams map[string]*streamState
	claims  streamState                // of which only what it has seen is used: idempotency keys
	waiting map[string][]chan struct{} // by stream: they are told when there may be something to read
	closed  bool
}

// ErrUnknownGroup: the stream has no group of that name.
var ErrUnknownGroup = errors.New("no such group")

// streamState is one stream.
type streamState struct {
	log    entryLog
	marks  map[string]writerMark // of writers
	groups map[string]*groupState

	seen      map[string]seenEvent // by key
	seenOrder []string             // keys, the oldest first
	seenLost  int64                // of them, that had to go before their time
}

// writerMark is the last append of a writer.
type writerMark struct {
	seq   uint64
	first redisstream.ID
}

// New returns a Memory whose streams keep up to maxLen entries each.
func New(maxLen int) *Memory {
	return &Memory{maxLen: maxLen, groupBound: redisstream.GroupBound, begun: time.Now(),
		streams: map[string]*streamState{}, waiting: map[string][]chan struct{}{}}
}

// Close wakes everybody who waits.
func (m *Memory) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	for stream := range m.waiting {
		m.wake(stream)
	}
}

// wake lets those who wait for a stream look again. The lock is held.
func (m *Memory) wake(stream string) {
	for _, more := range m.waiting[stream] {
		select {
		case more <- struct{}{}:
		default: // it knows
		}
	}
}

// stream returns a stream, made if it is not there.
func (m *Memory) stream(name string) *streamState {
	s := m.streams[name]
	if s == nil {
		s = &streamState{marks: map[string]writerMark{}, groups: map[string]*groupState{}}
		m.streams[name] = s
	}
	return s
}

func (m *Memory) Append(_ context.Context, stream string, w redisstream.Writer, messages []redisstream.Message) (first redisstream.ID, before uint64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	first, err = m.append(stream, w, messages)
	return first, 0, err
}

// append is Append. The lock is held.
func (m *Memory) append(stream string, w redisstream.Writer, messages []redisstream.Message) (redisstream.ID, error) {
	if m.closed {
		return redisstream.ID{}, redisstream.ErrClosed
	}
	s := m.stream(stream)
	if mark, ok := s.marks[w.Name]; ok && w.Name != "" {
		switch {
		case w.Seq == mark.seq:
			return mark.first, nil
		case w.Seq < mark.seq:
			return redisstream.ID{}, fmt.Errorf("stale append %d of writer %s, which is at %d", w.Seq, w.Name, mark.seq)
		}
	}
	first := s.log.next(len(messages))
	for i, msg := range messages {
		s.log.add(msg.Entry(first.Plus(i)))
	}
	if w.Name != "" {
		s.marks[w.Name] = writerMark{w.Seq, first}
	}
	s.trim(m.maxLen)
	m.wake(stream)
	return first, nil
}

// Remember keeps copies of messages that stand in Redis, from of on.
func (m *Memory) Remember(stream string, messages []redisstream.Message, of redisstream.ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return
	}
	s := m.stream(stream)
	first := s.log.next(len(messages))
	for i, msg := range messages {
		e := msg.Entry(first.Plus(i))
		e.Of = of.Plus(i)
		s.log.add(e)
	}
	s.trim(m.maxLen)
	m.wake(stream)
}

// Placed is an event of a spool, which was appended here and stands in Redis by now.
type Placed struct {
	UUID, Mark string         // the mark is the end of its metadata
	At         redisstream.ID // in Redis; zero: nobody knows where
}

// Place notes where events of a spool stand in Redis, in one pass over the log. Those of which nobody knows where are removed: who has not heard them
// yet does so from there.
func (m *Memory) Place(stream string, placed []Placed) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.streams[stream]
	if s == nil || len(placed) == 0 {
		return
	}
	of := make(map[string][]Placed, len(placed)) // by UUID, which a publisher may use twice
	for _, p := range placed {
		of[p.UUID] = append(of[p.UUID], p)
	}
	var gone []redisstream.ID
	for i := range s.log.entries {
		e := &s.log.entries[i]
		if !e.Of.IsZero() {
			continue
		}
		copied, _ := e.Message()
		for _, p := range of[copied.UUID] {
			switch {
			case !strings.HasSuffix(copied.Metadata, p.Mark):
			case p.At.IsZero():
				gone = append(gone, e.ID)
			default:
				e.Of = p.At
			}
		}
	}
	for _, id := range gone {
		s.log.remove(id)
	}
}

// trim drops the oldest entries beyond the bound, and counts them as lost by the groups that were not given them.
func (s *streamState) trim(maxLen int) {
	over := s.log.len() - maxLen
	if over <= 0 {
		return
	}
	for _, g := range s.groups {
		g.lost += int64(max(0, over-s.log.after(g.cursor)))
	}
	s.log.drop(over)
}

func (m *Memory) Range(_ context.Context, stream string, from, to redisstream.ID, count int, reverse bool) ([]redisstream.Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.streams[stream]
	if s == nil {
		return nil, nil
	}
	return page(s.log.between(from, to), count, reverse), nil
}

// page returns a copy of the first count entries; with reverse of the last ones, the newest first.
func page(entries []redisstream.Entry, count int, reverse bool) []redisstream.Entry {
	if !reverse {
		return slices.Clone(entries[:min(count, len(entries))])
	}
	last := slices.Clone(entries[max(0, len(entries)-count):])
	slices.Reverse(last)
	return last
}

func (m *Memory) Tail(ctx context.Context, after map[string]redisstream.ID, count int, block time.Duration) (map[string][]redisstream.Entry, error) {
	read := map[string][]redisstream.Entry{}
	err := m.await(ctx, block, slices.Collect(maps.Keys(after)), func() bool {
		for stream, id := range after {
			if s := m.streams[stream]; s != nil {
				if behind := s.log.between(id.Next(), redisstream.MaxID); len(behind) > 0 {
					read[stream] = slices.Clone(behind[:min(count, len(behind))])
				}
			}
		}
		return len(read) > 0
	})
	return read, err
}

// await calls the function, under the lock, until it returns true, block has passed or ctx ends, each time when one of the streams may
// have more. With a ctx that has ended it does not call it: who stops takes nothing more.
func (m *Memory) await(ctx context.Context, block time.Duration, streams []string, found func() bool) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	more := make(chan struct{}, 1)
	if done, err := m.look(streams, more, found); done {
		return err
	}
	defer m.leave(streams, more)
	timer := time.NewTimer(block)
	defer timer.Stop()
	for ctx.Err() == nil {
		select {
		case <-more:
			if done, err := m.look(nil, nil, found); done {
				return err
			}
		case <-timer.C:
			return nil
		case <-ctx.Done():
		}
	}
	return context.Cause(ctx)
}

// look calls the function under the lock. Where it returns false the channel is told of what the streams get from now on.
func (m *Memory) look(streams []string, more chan struct{}, found func() bool) (done bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.closed:
		return true, redisstream.ErrClosed
	case found():
		return true, nil
	}
	for _, s := range streams {
		m.waiting[s] = append(m.waiting[s], more)
	}
	return false, nil
}

// leave ends what look has begun.
func (m *Memory) leave(streams []string, more chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range streams {
		m.waiting[s] = slices.DeleteFunc(m.waiting[s], func(w chan struct{}) bool { return w == more })
		if len(m.waiting[s]) == 0 {
			delete(m.waiting, s)
		}
	}
}

func (m *Memory) Info(_ context.Context, stream string) (redisstream.StreamInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.streams[stream]
	if s == nil {
		return redisstream.StreamInfo{}, nil
	}
	info := redisstream.StreamInfo{Exists: true, Length: int64(s.log.len()), Last: s.log.last, EntriesAdded: s.log.added, SeenLost: s.seenLost}
	if s.log.len() > 0 {
		info.First = s.log.entries[0].ID
	}
	return info, nil
}

func (m *Memory) Streams(context.Context) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.streams)), nil
}

// Remove deletes a stream with its groups. Who waits for it looks again, and finds none.
func (m *Memory) Remove(stream string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.streams, stream)
	m.wake(stream)
}
