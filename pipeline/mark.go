package pipeline

import (
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// mark is what somebody who goes on reading a stream knows of it, so that he notices when it is another one, or has lost its end: the
// IDs of what comes then may lie before those that he has read, and he would wait for ever.
type mark struct{ first, last redisstream.ID }

// saw notes that an entry was read.
func (m *mark) saw(id redisstream.ID) {
	if m.first.IsZero() {
		m.first = id // the stream was empty at the last look
	}
	if m.last.Compare(id) < 0 {
		m.last = id
	}
}

// look takes into account what the stream is now. Where its IDs have gone back it returns behind which of them everything is new.
func (m *mark) look(now redisstream.StreamInfo) (behind redisstream.ID, back bool) {
	if !now.Exists {
		return redisstream.ID{}, false // what comes will tell
	}
	before := *m
	*m = mark{now.First, now.Last}
	switch {
	case now.Last.Compare(before.last) >= 0:
		return redisstream.ID{}, false
	case now.EntriesAdded == now.Length && now.First != before.first:
		return redisstream.ID{}, true // it begins elsewhere and nothing was ever removed: it was deleted and made anew
	}
	return now.Last, true // it has lost its end: a failover to a replica that was behind
}

// foundMargin is how far before his own beginning somebody who follows all streams from now on begins in one that is found later. It makes
// up for clocks that differ, and that step.
const foundMargin = 10 * time.Second

// newSince returns behind which ID the entries of a stream are new to somebody who began at the given time. All that a stream holds
// which was made since is new; one that other software had filled before, and that is entered into the registry only now, has old
// ones too. The time is measured back from the last entry, since the clock of the server need not be ours, or from now where that is
// earlier, since other software may choose its IDs. Nothing new is left out; old ones may be within the margin.
func newSince(info redisstream.StreamInfo, begun time.Time) redisstream.ID {
	last := min(info.Last.MS, uint64(time.Now().UnixMilli()))
	back := uint64((time.Since(begun) + foundMargin).Milliseconds())
	return redisstream.ID{MS: last - min(last, back)}
}
