package group

import (
	"time"

	"github.com/rishi-platform/millrace/internal/pattern"
	"github.com/rishi-platform/millrace/internal/redisstream"
)

// Spool is where events are kept while Redis is away, as far as a consumer is to handle them then.
type Spool interface {
	// IsSpooling reports whether Redis is away.
	IsSpooling() bool
	// IsEmpty reports whether Redis has all that was in it.
	IsEmpty() bool
	// News returns what is closed when there may be something to handle.
	News() <-chan struct{}
	// Reader reads the records of the streams that concern a consumer, the oldest first.
	Reader(concerns func(stream string) bool) SpoolReader
	// IsDrained reports whether Redis has a record, IsSent whether it is on its way there, or may be there.
	IsDrained(r *SpoolRecord) bool
	IsSent(r *SpoolRecord) bool
	// Claim gives a record to a consumer, unless its group has had it or it is on its way to Redis.
	Claim(r *SpoolRecord, c redisstream.Consumer) bool
	// Start begins to handle a claim, unless it was taken back: the record is on its way to Redis then.
	Start(number uint64, c redisstream.Consumer) bool
	// Finish ends a claim, Abandon all that a consumer has.
	Finish(number uint64, c redisstream.Consumer, handled bool)
	Abandon(c redisstream.Consumer)
}

// SpoolReader reads the records of a Spool.
type SpoolReader interface {
	// Read returns up to so many records; none and more: there are others. An error concerns the moment.
	Read(most int) (records []SpoolRecord, more bool, err error)
	// Close gives the file back until the next Read.
	Close()
}

// SpoolRecord is an event that waits for Redis, or several of which nobody knows whether it has them.
type SpoolRecord struct {
	Stream   string
	Number   uint64
	Subjects []string          // of the events
	Certain  bool              // Redis has not got it
	Entry    redisstream.Entry // the event, if it is certain
}

// newsEvery is how often a consumer looks whether there is something in the spool that it was not told of.
const newsEvery = 500 * time.Millisecond

// fallbackLoop handles what is in the spool while Redis is away.
func (c *Consumer) fallbackLoop() {
	s := c.host.Spool
	reader := s.Reader(c.concerns)
	defer reader.Close()
	blocked := map[subjectKey]bool{} // subjects whose order would be lost
	for c.reading.Err() == nil {
		news := s.News()
		if !s.IsSpooling() {
			reader.Close()   // a segment that is open keeps its room on the disk
			if s.IsEmpty() { // what has blocked them is in Redis
				clear(blocked)
			}
			c.awaitNews(news)
			continue
		}
		room := c.holdings.free(c.reading)
		if room == 0 {
			return
		}
		records, more, err := reader.Read(room)
		if err != nil {
			c.awaitNews(nil)
			continue
		}
		if !more {
			c.awaitNews(news)
			continue
		}
		var mine []redisstream.Delivered
		for i := range records {
			if c.takesFromSpool(&records[i], blocked) {
				r := &records[i]
				ref := redisstream.Ref{Stream: r.Stream, Spool: true, ID: r.Entry.ID}
				mine = append(mine, redisstream.Delivered{Ref: ref, Entry: r.Entry})
			}
		}
		c.holdings.arrive(c.holdings.hold(c, mine), false)
	}
}

func (c *Consumer) awaitNews(news <-chan struct{}) {
	timer := time.NewTimer(newsEvery)
	defer timer.Stop()
	select {
	case <-news:
	case <-timer.C:
	case <-c.reading.Done():
	}
}

// concerns reports whether the consumer may have something to handle of a stream.
func (c *Consumer) concerns(stream string) bool {
	return c.cfg.Topic == stream || c.cfg.Topic == AllStreams && len(pattern.Of(c.cfg.Patterns, stream)) > 0
}

// takesFromSpool reports whether the consumer is to handle a record of a stream that concerns it now, which
// it has claimed then.
func (c *Consumer) takesFromSpool(r *SpoolRecord, blocked map[subjectKey]bool) bool {
	if c.host.Spool.IsDrained(r) { // its room is not given back yet
		return false
	}
	if !r.Certain {
		for _, subject := range r.Subjects {
			if subject != "" {
				blocked[subjectKey{r.Stream, subject}] = true
			}
		}
		return false
	}
	of := subjectKey{r.Stream, r.Subjects[0]}
	event := c.wire.Decode(r.Stream, r.Entry)
	if event.Origin != OriginDrain || blocked[of] || !c.handles(event.Type) {
		return false
	}
	if c.host.Spool.IsSent(r) || c.IsPaused(r.Stream) || c.Sick() != nil {
		if of.subject != "" {
			blocked[of] = true
		}
		return false
	}
	return c.host.Spool.Claim(r, c.self)
}

// IsPaused reports whether the group takes nothing of a stream now.
func (c *Consumer) IsPaused(stream string) bool {
	m := c.membership(stream)
	if m == nil {
		return false
	}
	c.holdings.mu.Lock()
	defer c.holdings.mu.Unlock()
	return m.pause.isPaused()
}

// spoolMembership is the place of a delivery that comes from the spool: no group of Redis knows of it, no lease can be lost.
func spoolMembership() *membership {
	m := &membership{}
	m.fresh.Store(1<<63 - 1)
	return m
}
