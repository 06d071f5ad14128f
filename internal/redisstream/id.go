package redisstream

import (
	"cmp"
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

// ID is the ID of a stream entry: milliseconds since the Unix epoch and a sequence number within them.
type ID struct{ MS, Seq uint64 }

// MaxID is the largest ID there can be.
var MaxID = ID{math.MaxUint64, math.MaxUint64}

var errID = errors.New("not an entry ID")

// ParseID reads "ms-seq", or "ms" alone, which is "ms-0".
func ParseID(s string) (ID, error) {
	msText, seqText, hasSeq := strings.Cut(s, "-")
	ms, err := strconv.ParseUint(msText, 10, 64)
	if err != nil {
		return ID{}, errID
	}
	if !hasSeq {
		return ID{MS: ms}, nil
	}
	seq, err := strconv.ParseUint(seqText, 10, 64)
	if err != nil {
		return ID{}, errID
	}
	return ID{ms, seq}, nil
}

// String returns the ID as Redis writes it.
func (id ID) String() string { return string(id.append(make([]byte, 0, 24))) }

func (id ID) append(b []byte) []byte {
	b = strconv.AppendUint(b, id.MS, 10)
	b = append(b, '-')
	return strconv.AppendUint(b, id.Seq, 10)
}

// Strings returns the IDs as Redis writes them, as parts of one string: a few allocations however many there are.
func Strings(ids []ID) []string {
	text := make([]byte, 0, 24*len(ids))
	ends := make([]int, len(ids))
	for i, id := range ids {
		text = id.append(text)
		ends[i] = len(text)
	}
	all, begin := string(text), 0
	parts := make([]string, len(ids))
	for i, end := range ends {
		parts[i], begin = all[begin:end], end
	}
	return parts
}

// Compare returns -1, 0 or +1 as id is before, equal to or after other.
func (id ID) Compare(other ID) int {
	return cmp.Or(cmp.Compare(id.MS, other.MS), cmp.Compare(id.Seq, other.Seq))
}

// IsZero reports whether id is 0-0, which stands before every entry.
func (id ID) IsZero() bool { return id == ID{} }

// Time is when the entry was added, by the clock of its log.
func (id ID) Time() time.Time { return time.UnixMilli(int64(id.MS)) }

// Plus returns the ID n sequence numbers on: the IDs of entries that one append stored are consecutive.
func (id ID) Plus(n int) ID { return ID{id.MS, id.Seq + uint64(n)} }

// Next returns the smallest ID after id; MaxID stays MaxID.
func (id ID) Next() ID {
	switch {
	case id.Seq < math.MaxUint64:
		return ID{id.MS, id.Seq + 1}
	case id.MS < math.MaxUint64:
		return ID{id.MS + 1, 0}
	}
	return id
}

// Prev returns the largest ID before id; 0-0 stays 0-0.
func (id ID) Prev() ID {
	switch {
	case id.Seq > 0:
		return ID{id.MS, id.Seq - 1}
	case id.MS > 0:
		return ID{id.MS - 1, math.MaxUint64}
	}
	return id
}
