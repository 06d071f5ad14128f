package pipeline

import "github.com/rishi-platform/millrace/internal/redisstream"

// Gap is what a subscription has missed, since it was gone before it could be heard.
type Gap struct {
	Stream string
	Local  bool     // in the memory of this process
	Reason string   // GapTrimmed, GapRecreated
	After  Position // behind this one
	Missed int64    // how many events, those included that are not for this subscription; -1: nobody knows
}

// The reasons of a gap.
const (
	GapTrimmed   = "trimmed"   // entries were removed
	GapRecreated = "recreated" // the stream was deleted, or has lost its end; it is heard from where it goes on
)

// uncounted is the ordinal of a place of which nobody knows how many entries were ever added up to there.
const uncounted = -1

// missed compares how far somebody has got in a stream with what the stream is now, and returns how many entries are gone that he has not seen; -1
// where nobody knows how many. It needs no more than what a stream says of itself: of all entries that were ever added the oldest ones are
// gone, as many as are not there.
func (s *spot) missed(now redisstream.StreamInfo) (n int64, reason string) {
	if !now.Exists {
		return 0, "" // what comes will tell
	}
	gone := now.EntriesAdded - now.Length
	switch {
	case s.ordinal != uncounted && now.EntriesAdded < s.ordinal: // fewer than were seen
		s.ordinal = uncounted
		if s.id.Compare(now.First) < 0 {
			s.ordinal = gone
		}
		return uncounted, GapRecreated
	case s.id.Compare(now.Last) >= 0: // all that there ever was
		if s.ordinal != uncounted {
			n = max(0, now.EntriesAdded-s.ordinal)
		}
		s.ordinal = now.EntriesAdded
	case s.ordinal != uncounted:
		n = max(0, gone-s.ordinal)
		s.ordinal += n
	case now.Length == 0 || s.id.Compare(now.First) < 0: // before the first one there is
		if gone > 0 && !s.id.IsZero() {
			n = uncounted
		}
		s.ordinal = gone
	}
	return n, GapTrimmed
}

// saw notes that the next entry was seen.
func (s *spot) saw(id redisstream.ID) {
	s.id = id
	if s.ordinal != uncounted {
		s.ordinal++
	}
}

// advance moves to an entry of the tail and reports whether it is new here, and how many before it the tail knows of that were missed here: entries
// that went between a look at the stream and a read. Either may have noticed a gap that the other has not.
func (s *spot) advance(to spot) (missed int64, fresh bool) {
	if to.run != s.run {
		*s = to
		return 0, true
	}
	if to.id.Compare(s.id) <= 0 {
		return 0, false
	}
	s.saw(to.id)
	if s.ordinal != uncounted {
		missed = max(0, to.ordinal-s.ordinal)
	}
	s.ordinal = max(s.ordinal, to.ordinal)
	return missed, true
}

// behind moves behind a gap of the tail and returns what of it was not noticed here before; nil if all was.
func (s *spot) behind(c *carried) *Gap {
	g := *c.gap
	if c.spot.run == s.run && g.Missed != uncounted && s.ordinal != uncounted {
		if g.Missed = c.spot.ordinal - s.ordinal; g.Missed <= 0 {
			return nil
		}
	}
	if c.spot.run != s.run || c.spot.id.Compare(s.id) >= 0 {
		*s = c.spot
	}
	s.ordinal = max(s.ordinal, c.spot.ordinal)
	return &g
}

// gap is what was missed behind a place.
func (k tailKey) gap(reason string, after redisstream.ID, missed int64) *Gap {
	return &Gap{Stream: k.stream, Local: k.local, Reason: reason, After: positionOf(after), Missed: missed}
}
