package pipeline

import (
	"fmt"
	"strings"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// Position is where an event stands in its stream: the ID of its Redis entry, "1764000000000-0", milliseconds since the
// Unix epoch and a sequence number. Positions of one stream are ordered as Compare says; positions of different streams are
// comparable too, roughly by time.
//
// Where a Position says where to begin, Oldest and Now are understood as well. The empty Position is the default of
// the field that it stands in.
type Position string

const (
	Oldest Position = "oldest" // before the first entry that is kept
	Now    Position = "now"    // after the last entry there is at the moment of the call
)

// At returns the position of the first event stored at t or later.
func At(t time.Time) Position { return positionOf(redisstream.ID{MS: uint64(max(t.UnixMilli(), 0))}) }

// ParsePosition checks s, which is "oldest", "now" or an entry ID such as "1764000000000-0" (the part behind the hyphen may
// be left out).
func ParsePosition(s string) (Position, error) {
	switch p := Position(strings.TrimSpace(s)); p {
	case Oldest, Now:
		return p, nil
	default:
		id, err := redisstream.ParseID(string(p))
		if err != nil {
			return "", fmt.Errorf("position %q: want oldest, now, or an entry ID such as 1764000000000-0", s)
		}
		return positionOf(id), nil
	}
}

// Time returns when the entry at p was stored, to the millisecond; false for Oldest, Now and the empty position.
func (p Position) Time() (time.Time, bool) {
	id, ok := p.id()
	if !ok {
		return time.Time{}, false
	}
	return time.UnixMilli(int64(id.MS)).UTC(), true
}

// Compare returns -1, 0 or +1 as p stands before, at or after q. Oldest and the empty position stand before all others,
// Now after them.
func (p Position) Compare(q Position) int { return p.bound().Compare(q.bound()) }

// bound is p as an entry ID, with the smallest and the largest ID for the two ends of a stream.
func (p Position) bound() redisstream.ID {
	if p == Now {
		return redisstream.MaxID
	}
	id, _ := p.id()
	return id
}

func (p Position) id() (redisstream.ID, bool) {
	id, err := redisstream.ParseID(string(p))
	return id, err == nil
}

func positionOf(id redisstream.ID) Position { return Position(id.String()) }
