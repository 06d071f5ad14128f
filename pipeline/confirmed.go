package pipeline

import (
	"slices"
	"sync"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// confirmed are the last appends of this process that Redis has confirmed: what it takes to notice that Redis has forgotten them, to name
// what is lost, and to append it again.
//
// Each append leaves a mark in Redis (append.lua), in one step and one slot with its entries. So a mark that has gone back, or is gone, tells
// that the entries of every append behind it are gone too; one that has not tells that they are there, or were trimmed.
type confirmed struct {
	most    int           // events that are kept per stream
	markFor time.Duration // see there

	mu      sync.Mutex // guards what follows
	streams map[string]*confirmedStream
}

type confirmedStream struct {
	appends       []confirmedAppend // the oldest first
	events, bytes int               // in them
	marks         map[string]confirmedMark
	forgotten     forgotten // and not told yet
}

// confirmedAppend is an append, or one event of one that appends each event once.
type confirmedAppend struct {
	writer   redisstream.Writer
	first    redisstream.ID // the others follow it with consecutive sequence numbers
	messages []redisstream.Message
	seen     *redisstream.Seen // where it is one event that was appended once
	noted    time.Time         // when Redis had confirmed it, by our clock
}

// confirmedMark is what the mark of a writer must be at least.
type confirmedMark struct {
	seq     uint64
	at      time.Time
	dropped uint64 // up to which append they are not kept any more
}

// forgotten is what Redis has lost of a stream.
type forgotten struct {
	appends []confirmedAppend
	gaps    []gap // what was lost before these, and is not kept here any more
}

// gap are appends of a writer to a stream that were lost, and are not kept any more. Those of a drain may be on disk still.
type gap struct {
	writer   string
	from, to uint64 // sequences
}

func (f *forgotten) isEmpty() bool { return len(f.appends) == 0 && len(f.gaps) == 0 }

const (
	// confirmedBytes bounds what is kept per stream, whatever the number of events, confirmedTotal what is kept of all streams, in equal shares.
	confirmedBytes = 16 << 20
	confirmedTotal = 64 << 20
	// messageBytes is what a message takes beside its texts.
	messageBytes = 64
	// markFor is how long a mark is relied on, briefMarkFor that of a one-shot process: marks.lua forgets those of 30 days and of 10 minutes ago.
	markFor, briefMarkFor = 29 * 24 * time.Hour, 9 * time.Minute
	// briefPrefix begins the names of the writers of a one-shot process. No other name begins so.
	briefPrefix = "~"
)

func newConfirmed(cfg *Config) *confirmed {
	c := &confirmed{most: cfg.RestoreEvents, markFor: markFor, streams: map[string]*confirmedStream{}}
	if cfg.OneShot {
		c.markFor = briefMarkFor
	}
	return c
}

// note takes an append into account that was confirmed, with what it has stored, and which one before it Redis knew of. It reports whether Redis
// has forgotten any.
func (c *confirmed) note(stream string, w redisstream.Writer, before uint64, stored ...confirmedAppend) (forgot bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[stream]
	if s == nil {
		s = &confirmedStream{marks: map[string]confirmedMark{}}
		c.streams[stream] = s
	}
	forgot = s.compare(w.Name, before, s.marks[w.Name].seq, c.markFor)
	mark := s.marks[w.Name]
	mark.seq, mark.at = w.Seq, time.Now()
	s.marks[w.Name] = mark
	for _, a := range stored {
		a.writer, a.noted = w, mark.at
		s.appends = append(s.appends, a)
		s.events += len(a.messages)
		s.bytes += a.size()
	}
	s.fit(c.most, c.share())
	return forgot
}

// share is how many bytes of each stream are kept. The lock is held.
func (c *confirmed) share() int { return min(confirmedBytes, confirmedTotal/len(c.streams)) }

// fit drops the oldest appends until what is left is within bounds.
func (s *confirmedStream) fit(events, bytes int) {
	for s.events > events || s.bytes > bytes {
		s.drop()
	}
}

// tidy makes room for the streams that have come meanwhile, and forgets the marks that are not relied on any more.
func (c *confirmed) tidy() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.streams {
		s.fit(c.most, c.share())
		for writer, mark := range s.marks {
			if time.Since(mark.at) > c.markFor {
				delete(s.marks, writer)
			}
		}
	}
}

func (a *confirmedAppend) size() (n int) {
	for i := range a.messages {
		n += messageBytes + len(a.messages[i].UUID) + len(a.messages[i].Metadata) + len(a.messages[i].Payload)
	}
	return n
}

// confirmedOnce are those messages of an append that it has stored.
func confirmedOnce(messages []redisstream.Message, seen []redisstream.Seen, appended []redisstream.Appended) (stored []confirmedAppend) {
	for i, a := range appended {
		if !a.Duplicate && !a.Conflict && !a.ID.IsZero() {
			stored = append(stored, confirmedAppend{first: a.ID, messages: messages[i : i+1], seen: &seen[i]})
		}
	}
	return stored
}

// drop forgets the oldest append.
func (s *confirmedStream) drop() {
	oldest := s.appends[0]
	s.appends[0] = confirmedAppend{} // its memory is not to be kept
	s.appends = s.appends[1:]
	s.events -= len(oldest.messages)
	s.bytes -= oldest.size()
	if mark, known := s.marks[oldest.writer.Name]; known {
		mark.dropped = max(mark.dropped, oldest.writer.Seq)
		s.marks[oldest.writer.Name] = mark
	}
}

// compare takes into account what Redis knows of a writer: is, where it should be at least the append should, unless its mark is too old to be there. It
// reports whether anything is lost.
func (s *confirmedStream) compare(writer string, is, should uint64, markFor time.Duration) bool {
	mark, known := s.marks[writer]
	if !known || is >= should {
		return false
	}
	if time.Since(mark.at) > markFor {
		return false
	}
	kept := s.appends[:0]
	for _, a := range s.appends {
		if a.writer.Name != writer || a.writer.Seq <= is || a.writer.Seq > should {
			kept = append(kept, a)
			continue
		}
		s.forgotten.appends = append(s.forgotten.appends, a)
		s.events -= len(a.messages)
		s.bytes -= a.size()
	}
	clear(s.appends[len(kept):])
	s.appends = kept
	if mark.dropped > is {
		s.forgotten.gaps = append(s.forgotten.gaps, gap{writer, is + 1, mark.dropped})
	}
	mark.dropped = min(mark.dropped, is)
	if mark.seq == should {
		mark.seq = is
	}
	s.marks[writer] = mark
	return true
}

// heard compares what Redis says is the last append of a writer with what it should be. It reports whether Redis has forgotten any.
func (c *confirmed) heard(stream, writer string, is uint64) (forgot bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[stream]
	return s != nil && s.compare(writer, is, s.marks[writer].seq, c.markFor)
}

// check compares what Redis knows of the writers of a stream with what it knew when asked began.
func (c *confirmed) check(stream string, writers []string, should, is []uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[stream]
	if s == nil {
		return // it was removed
	}
	for i, w := range writers {
		s.compare(w, is[i], should[i], c.markFor)
	}
}

// marks returns what the marks of a stream's writers must be at least.
func (c *confirmed) marks(stream string) (writers []string, seqs []uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[stream]
	if s == nil {
		return nil, nil
	}
	for w, mark := range s.marks {
		if mark.seq > 0 && time.Since(mark.at) < c.markFor {
			writers, seqs = append(writers, w), append(seqs, mark.seq)
		}
	}
	return writers, seqs
}

// names returns the streams that this process has appended to.
func (c *confirmed) names() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	names := make([]string, 0, len(c.streams))
	for name := range c.streams {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// remove forgets a stream that was removed.
func (c *confirmed) remove(stream string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.streams, stream)
}

// takeForgotten returns what was lost of a stream since the last call.
func (c *confirmed) takeForgotten(stream string) forgotten {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[stream]
	if s == nil {
		return forgotten{}
	}
	f := s.forgotten
	s.forgotten = forgotten{}
	slices.SortStableFunc(f.appends, func(a, b confirmedAppend) int { return a.first.Compare(b.first) })
	return f
}
