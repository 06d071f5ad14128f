package pipeline

import (
	"cmp"
	"context"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// ranger has entries that can be read in the order of their IDs, both ways; see streamLog.
type ranger interface {
	Range(ctx context.Context, stream string, from, to redisstream.ID, count int, reverse bool) ([]redisstream.Entry, error)
}

// pager reads one stream of one log in one direction, page by page.
type pager struct {
	source   ranger
	log      streamLog // of a history: the source
	local    bool      // the log is the memory of this process
	stream   string
	from, to redisstream.ID // what is left to read, both included
	reverse  bool
	page     []redisstream.Entry
	share    *pageShare
	count    int  // of the next page
	begun    bool // a page was read
	ended    bool // there was no more at the last look
	done     bool // there can't be any more
	refused  bool // for good, by the server
	known    mark
}

const (
	// firstPage is small since a history often ends within it, and since nothing is known yet about the size of the entries.
	firstPage = 32
	lastPage  = 256
	// pageBytes is about what one page holds at most, once a page before it has told the size of the entries: an entry may have 1 MiB.
	pageBytes = 4 << 20
	// sizeAtFirst is what an entry counts as before any is known: it may have 1 MiB.
	sizeAtFirst = 256 << 10
	// sharedBytes is about what all pages hold together that are read side by side.
	sharedBytes = 32 << 20
)

// pageShare is what pagers that are read side by side share: the room for their pages, and what they know of the size of entries.
type pageShare struct{ pagers, entries, bytes int }

// count returns how many entries to ask for, at most so many, where they are of this size on average; 0: it is not known.
func (s *pageShare) count(most, size int) int {
	room := pageBytes
	if s != nil && s.pagers > 0 {
		room = min(room, sharedBytes/s.pagers)
	}
	if size == 0 && s != nil && s.entries > 0 {
		size = s.bytes / s.entries
	}
	if size == 0 && (s == nil || s.pagers <= 1) {
		return most
	}
	return max(1, min(most, room/max(1, cmp.Or(size, sizeAtFirst))))
}

// firstCount returns how many entries to ask for first: no more than are wanted, for they may be large. A
// limit of 0 is none.
func firstCount(limit int) int {
	if limit > 0 {
		return min(firstPage, limit)
	}
	return firstPage
}

// nextPage returns how many entries to ask for next, where count were asked for and these came.
func nextPage(count int, page []redisstream.Entry) int { return (*pageShare)(nil).next(count, page) }

// next is nextPage for one of several.
func (s *pageShare) next(count int, page []redisstream.Entry) int {
	if len(page) == 0 {
		return count
	}
	bytes := 0
	for _, entry := range page {
		bytes += entry.Size()
	}
	if s != nil {
		s.entries, s.bytes = s.entries+len(page), s.bytes+bytes
	}
	if len(page) == count {
		count *= 2
	}
	return s.count(min(count, lastPage), bytes/len(page)+1)
}

// head returns the next entry without taking it; false at the end.
func (p *pager) head(ctx context.Context) (redisstream.Entry, bool, error) {
	if len(p.page) == 0 && !p.ended && !p.done {
		if !p.begun {
			p.count, p.begun = p.share.count(p.count, 0), true
		}
		page, err := p.source.Range(ctx, p.stream, p.from, p.to, p.count, p.reverse)
		if err != nil {
			return redisstream.Entry{}, false, err
		}
		p.page, p.ended = page, len(page) < p.count
		p.count = p.share.next(p.count, page)
		if n := len(page); n > 0 {
			p.known.saw(page[0].ID)
			p.known.saw(page[n-1].ID)
			p.goOn(page[n-1].ID, false)
		}
	}
	if len(p.page) == 0 {
		return redisstream.Entry{}, false, nil
	}
	return p.page[0], true, nil
}

func (p *pager) take() { p.page = p.page[1:] }

// goOn leaves to read what stands behind id in the direction of reading, and what stands at it if it is included.
func (p *pager) goOn(id redisstream.ID, included bool) {
	edge := id
	switch {
	case included:
	case p.reverse:
		edge = id.Prev()
	default:
		edge = id.Next()
	}
	if !included && edge == id { // the first or the last ID there can be
		p.done = true
	}
	if p.reverse && edge.Compare(p.to) < 0 {
		p.to = edge
	} else if !p.reverse && edge.Compare(p.from) > 0 {
		p.from = edge
	}
	if p.from.Compare(p.to) > 0 {
		p.done = true
	}
}
