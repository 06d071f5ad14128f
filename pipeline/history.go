package pipeline

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"strings"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// Source says where History reads from.
type Source string

const (
	AllSources Source = ""      // Redis and this instance's own memory, without duplicates
	FromRedis  Source = "redis" // the streams in Redis only
	FromLocal  Source = "local" // the bounded memory of this instance's recent events only
)

// Query selects events of the history. The zero Query selects everything, oldest first.
type Query struct {
	Streams        []string  // empty: those that Patterns name, or all
	Patterns       []string  // event type patterns, any of which may match; empty: all types
	After          Position  // strictly behind this position in the direction of reading; Now: the end of each stream when the loop begins
	Cursor         string    // goes on behind the record whose Cursor this is; wins over After
	Since, Until   time.Time // by the time of storage; Since included, Until excluded; zero: no bound
	Subject        string
	CorrelationID  string
	OrganizationID string
	UserID         string
	Limit          int    // at most so many records; 0: no bound
	Scan           int    // at most so many entries looked at, matching or not; 0: no bound. Ends with ErrScanLimit
	Newest         bool   // newest first
	Follow         bool   // go on with what is stored from now on, see History; not with Newest
	Source         Source // where to look
}

// Record is an event of the history and where it stands.
type Record struct {
	Event
	Stream   string
	Position Position
	Local    bool // in the memory of this process only; Position is local to it

	at place // where it was read, which need not be Position; zero in a Record that the bus did not make
}

// Cursor is the place behind this record in the merged order of all streams, for Query.Cursor. It is opaque. From page to page nothing
// comes twice, and nothing is missed that was stored before the page was read. What is stored later stands behind the cursor as well,
// but for two cases: another stream in the same millisecond, and memory and Redis whose clocks differ. Who wants everything that comes
// follows.
func (r Record) Cursor() string {
	if r.at.stream != "" {
		return r.at.String()
	}
	return cursorText(string(r.Position), r.Stream, r.Local)
}

// History yields the records that q selects, merged over the streams by the time of storage. It reads page by page and never
// holds a stream as a whole; breaking out of the loop ends it. An error is yielded once, as the last thing: ErrClosed when the bus is
// closed meanwhile.
//
// With Query.Follow it goes on with what is stored from then on, until ctx ends, and yields the cause. An outage of Redis does not end it:
// it goes on from where it was. With Query.Until as well it ends, without an error, when that time has passed and everything stored
// before it was looked at, about a second later, since the clock of the server need not be ours.
func (b *Bus) History(ctx context.Context, q Query) iter.Seq2[Record, error] {
	return b.history(ctx, q)
}

// place is where an entry stands in the order of all that is read: by ID, then stream, then log, Redis before the memory of this
// process. The last one matters, since both give IDs in the same stream, and may give the same.
type place struct {
	id     redisstream.ID
	stream string
	local  bool
}

func (p place) compare(q place) int {
	switch c := cmp.Or(p.id.Compare(q.id), strings.Compare(p.stream, q.stream)); {
	case c != 0 || p.local == q.local:
		return c
	case q.local:
		return -1
	}
	return 1
}

// String is p as a cursor.
func (p place) String() string { return cursorText(p.id.String(), p.stream, p.local) }

// cursorLocal is the third part of a cursor behind what stands in the memory of this process.
const cursorLocal = "local"

func cursorText(position, stream string, local bool) string {
	text := position + "@" + stream
	if local {
		text += "@" + cursorLocal
	}
	return text
}

var errCursor = errors.New("not a cursor of this history")

// CheckCursor returns an error when the text is not what Record.Cursor returns.
func CheckCursor(cursor string) error {
	_, err := parseCursor(cursor)
	return err
}

// parseCursor reads what Record.Cursor wrote; an empty cursor has no stream.
func parseCursor(cursor string) (place, error) {
	if cursor == "" {
		return place{}, nil
	}
	position, rest, ok := strings.Cut(cursor, "@")
	stream, log, inLog := strings.Cut(rest, "@")
	id, err := redisstream.ParseID(position)
	if !ok || err != nil || CheckStream(stream) != nil || inLog && log != cursorLocal {
		return place{}, errCursor
	}
	return place{id, stream, inLog}, nil
}
