package pipeline

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/rishi-platform/millrace/internal/pattern"
	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/wire"
)

// ErrScanLimit is yielded by History as the last thing when Query.Scan entries were looked at. The Cursor of the last record, or of
// the ScanLimitError that carries it, goes on from there.
var ErrScanLimit = errors.New("scan limit reached")

// ScanLimitError is ErrScanLimit, and says where to go on.
type ScanLimitError struct{ Cursor string }

func (e *ScanLimitError) Error() string        { return ErrScanLimit.Error() }
func (e *ScanLimitError) Is(target error) bool { return target == ErrScanLimit }

func (b *Bus) history(ctx context.Context, q Query) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		defer context.AfterFunc(b.stopped, func() { cancel(ErrClosed) })()
		h, err := b.newHistory(ctx, q)
		if err == nil && q.Follow {
			err = h.follow(ctx, yield)
		} else if err == nil {
			err = h.drain(ctx, yield)
		}
		if err == nil || err == errStopped {
			return
		}
		if cause := context.Cause(ctx); cause != nil {
			err = cause // and not what the end of ctx made of a command
		}
		yield(Record{}, err)
	}
}

// errStopped says that the reader of a history has had enough.
var errStopped = errors.New("stopped")

// historyRead is one pass over the history.
type historyRead struct {
	bus          *Bus
	query        Query
	cursor       place          // query.Cursor
	since, until redisstream.ID // both included
	begun        time.Time      // before the streams were listed
	pagers       []*pager
	share        pageShare
	named        []string        // streams that the query names
	streams      map[string]bool // that are read
	seen         int             // records yielded
	scanned      int             // entries looked at
	last         place           // of the last entry that was looked at
	looked       time.Time       // for streams that were made later
	lookedAgain  time.Time       // at one that is read
	turn         int             // which one that was
	refused      error           // of the last stream that was left out
	spooled      numbers         // of records of the spool whose events were seen before Redis had them
	trouble      trouble
}

func (b *Bus) newHistory(ctx context.Context, q Query) (*historyRead, error) {
	if err := checkQuery(&q, b); err != nil {
		return nil, err
	}
	h := &historyRead{bus: b, query: q, until: redisstream.MaxID, begun: time.Now(), looked: time.Now(), streams: map[string]bool{}}
	h.trouble = trouble{bus: b, what: "history"}
	h.cursor, _ = parseCursor(q.Cursor) // it was checked
	if b.redis == nil {
		h.cursor.local = true // there is but one log: a cursor of an older version does not name it
	}
	if !q.Since.IsZero() {
		h.since = At(q.Since).bound()
	}
	if !q.Until.IsZero() {
		h.until = At(q.Until).bound().Prev()
	}
	streams, err := h.list(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range streams {
		if err := h.addStream(ctx, s, false); err != nil {
			return nil, err
		}
	}
	return h, nil
}

func checkQuery(q *Query, b *Bus) (err error) {
	invalid := &ValidationError{}
	fault := func(field string, reason any) {
		invalid.Faults = append(invalid.Faults, Fault{Index: -1, Field: field, Reason: fmt.Sprint(reason)})
	}
	for _, p := range q.Patterns {
		if err := CheckPattern(p); err != nil {
			fault("eventType", fmt.Sprintf("%q %v", p, err))
		}
	}
	for _, s := range q.Streams {
		if err := CheckStream(s); err != nil {
			fault("stream", err)
		}
	}
	if q.After != "" {
		if q.After, err = ParsePosition(string(q.After)); err != nil {
			fault("after", err)
		}
	}
	if err := CheckCursor(q.Cursor); err != nil {
		fault("after", err)
	}
	switch q.Source {
	case AllSources:
	case FromRedis:
		if b.redis == nil {
			fault("source", "no redis is configured")
		}
	case FromLocal:
		if b.local == nil {
			fault("source", "the bus keeps nothing itself in mode redis-only")
		}
	default:
		fault("source", "want redis, local, or nothing for both")
	}
	if q.Newest && q.Follow {
		fault("follow", "does not go with newest first")
	}
	if len(invalid.Faults) > 0 {
		return invalid
	}
	return nil
}

// list names the streams that the query looks at, in order.
func (h *historyRead) list(ctx context.Context) ([]string, error) {
	q := &h.query
	named, all := pattern.Streams(q.Patterns)
	if len(q.Patterns) == 0 {
		named, all = q.Streams, len(q.Streams) == 0
	} else if len(q.Streams) > 0 {
		named, all = q.Streams, false // the patterns filter within them
	}
	h.named = named
	streams := slices.Clone(named)
	if all {
		for _, log := range h.bus.sources(q.Source) {
			there, err := log.Streams(ctx)
			if err != nil {
				return nil, h.bus.redisError("list streams", "", err)
			}
			streams = append(streams, there...)
		}
	}
	slices.Sort(streams)
	return slices.Compact(streams), nil
}

// sources are the logs that a source stands for.
func (b *Bus) sources(s Source) []streamLog {
	var logs []streamLog
	if b.redis != nil && s != FromLocal {
		logs = append(logs, b.redis)
	}
	if b.local != nil && s != FromRedis {
		logs = append(logs, b.local)
	}
	return logs
}

// addStream adds a pager per log. A stream that was found later was made later, or is registered only now.
func (h *historyRead) addStream(ctx context.Context, stream string, later bool) error {
	var pagers []*pager
	for _, log := range h.bus.sources(h.query.Source) {
		p := &pager{
			source: log, log: log, local: log == streamLog(h.bus.local), stream: stream,
			from: h.since, to: h.until, reverse: h.query.Newest, count: firstCount(h.query.Limit), share: &h.share,
		}
		if err := h.leaveOut(p, h.place(ctx, p, later)); err != nil {
			return err
		}
		pagers = append(pagers, p)
	}
	h.streams[stream] = true
	h.pagers = append(h.pagers, pagers...)
	h.share.pagers = len(h.pagers)
	return nil
}

// place leaves the pager to read what stands behind Cursor or After. A cursor cuts each log of each stream at its own place in the
// order of all.
func (h *historyRead) place(ctx context.Context, p *pager, later bool) error {
	if p.from.Compare(p.to) > 0 {
		p.done = true
	}
	switch {
	case h.cursor.stream != "":
		p.goOn(h.cursor.id, h.before(h.cursor, place{h.cursor.id, p.stream, p.local}))
	case h.query.After == Now && !h.query.Newest:
		info, err := p.log.Info(ctx, p.stream)
		if err != nil {
			return err
		}
		p.known.look(info)
		if later {
			p.goOn(newSince(info, h.begun), false)
		} else {
			p.goOn(info.Last, false)
		}
	case h.query.After != "":
		p.goOn(h.query.After.bound(), false)
	}
	return nil
}

// drain yields what is there, merged.
func (h *historyRead) drain(ctx context.Context, yield func(Record, error) bool) error {
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		next, at, err := h.first(ctx)
		if err != nil {
			return err
		}
		if next == nil {
			return h.allRefused()
		}
		entry := next.page[0]
		if err := h.look(at, entry, yield); err != nil {
			return err
		}
		next.take()
	}
}

// first returns the pager whose next entry comes first in the merged order, and the place of that entry.
func (h *historyRead) first(ctx context.Context) (next *pager, at place, err error) {
	for _, p := range h.pagers {
		e, ok, err := p.head(ctx)
		if err := h.leaveOut(p, err); err != nil {
			return nil, at, err
		}
		if head := (place{e.ID, p.stream, p.local}); ok && (next == nil || h.before(head, at)) {
			next, at = p, head
		}
	}
	return next, at, nil
}

// leaveOut gives an error of one stream its shape. A stream that the query does not name and that the server refuses for good, a key of
// another type say, is left out: it must not hide all others.
func (h *historyRead) leaveOut(p *pager, err error) error {
	err = h.bus.redisError("read history", p.stream, err)
	if !errors.Is(err, ErrDenied) || slices.Contains(h.named, p.stream) {
		return err
	}
	h.bus.logger.Warn("history leaves out a stream", "stream", p.stream, "err", err)
	p.refused, p.done, h.refused = true, true, err
	return nil
}

// allRefused returns an error if everything was left out.
func (h *historyRead) allRefused() error {
	for _, p := range h.pagers {
		if !p.local && !p.refused {
			return nil
		}
	}
	return h.refused
}

// before reports whether a comes before b in the direction of reading.
func (h *historyRead) before(a, b place) bool {
	if h.query.Newest {
		return a.compare(b) > 0
	}
	return a.compare(b) < 0
}

// look yields the entry if it is wanted.
func (h *historyRead) look(at place, entry redisstream.Entry, yield func(Record, error) bool) error {
	if h.query.Scan > 0 && h.scanned == h.query.Scan {
		return &ScanLimitError{Cursor: h.last.String()}
	}
	h.scanned++
	h.last = at
	d := h.bus.decode(at.stream, entry)
	if at.local && d.Position != "" && h.query.Source == AllSources {
		return nil // it comes from Redis
	}
	if number, spooled := h.bus.spool.numberOf(&d); spooled && h.query.Source == AllSources && !h.spooled.add(number) {
		return nil // it was heard before Redis had it
	}
	r := recordAt(&d, at)
	if !h.wants(&r.Event) {
		return nil
	}
	if !yield(r, nil) {
		return errStopped
	}
	h.seen++
	if h.query.Limit > 0 && h.seen == h.query.Limit {
		return errStopped
	}
	return nil
}

// recordAt is the event of an entry and where it stands. A copy in memory of what is stored in Redis stands where that does.
func recordAt(d *wire.Decoded, at place) Record {
	r := Record{Event: Event(d.Event), Stream: at.stream, Position: positionOf(at.id), Local: at.local, at: at}
	if at.local && d.Position != "" {
		r.Position, r.Local = Position(d.Position), false
	}
	return r
}

func (h *historyRead) wants(e *Event) bool {
	q := &h.query
	return (len(q.Patterns) == 0 || pattern.MatchAny(q.Patterns, e.Type)) &&
		(q.Subject == "" || q.Subject == e.Subject) &&
		(q.CorrelationID == "" || q.CorrelationID == e.CorrelationID) &&
		(q.OrganizationID == "" || q.OrganizationID == e.OrganizationID) &&
		(q.UserID == "" || q.UserID == e.UserID)
}

func maxID(a, b redisstream.ID) redisstream.ID {
	if a.Compare(b) > 0 {
		return a
	}
	return b
}
