package spool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// segment is one file of the log.
type segment struct {
	path   string
	id     string           // of its records
	header int64            // how long it is
	first  uint64           // number of its first record
	count  uint64           // records, those that are damaged included
	size   int64            // up to the end of the last whole record
	skips  map[int64]Damage // what is damaged between whole records, by its offset; it is never changed, but replaced
}

// next is the number behind its last record.
func (s *segment) next() uint64 { return s.first + s.count }

const segmentSuffix = ".log"

func segmentPath(dir string, first uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%020d%s", first, segmentSuffix))
}

// createSegment makes an empty segment that survives a crash of the machine.
func createSegment(dir, id string, first uint64) (*segment, *os.File, error) {
	path := segmentPath(dir, first)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600) // one of that name would be somebody else's
	if err != nil {
		return nil, nil, err
	}
	likeFolder(path)
	_, err = f.Write(appendHeader(nil, id, first))
	if err = errors.Join(err, f.Sync(), syncDir(dir)); err != nil {
		return nil, nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	return &segment{path: path, id: id, header: int64(headerLength), first: first, size: int64(headerLength)}, f, nil
}

// Damage is what could not be read. As an error, of Reader.Read, it is one that was found since the spool was opened, and is passed
// over from now on.
type Damage struct {
	File   string
	Offset int64
	Bytes  int64
	// Record is the number of the first record concerned. Torn means that it is the beginning of a record, or nothing but zeros, behind everything that is
	// whole: a crash left that half-written, it was never accepted, and is cut off. Otherwise records that were accepted are lost: so many as Records says,
	// or where Rest is set at least one, all up to the end of the file. (A power failure may leave the same of a write that was never answered: nobody
	// can tell.)
	Record  uint64
	Records uint64
	Torn    bool
	Rest    bool
}

func (d Damage) Error() string { return d.String() }

// keep keeps a copy of what can't be read beside its segment, which goes when the rest of it has arrived.
func (d Damage) keep(id string, content []byte) error {
	path := fmt.Sprintf("%s.%s.%d%s", d.File, id[:min(len(id), 8)], d.Offset, damagedSuffix)
	if there, err := os.ReadFile(path); err == nil && bytes.Equal(there, content) {
		return nil
	}
	return writeSynced(path, content)
}

// damagedSuffix is that of copies of what can't be read.
const damagedSuffix = ".damaged"

func (d Damage) String() string {
	switch {
	case d.Torn:
		return fmt.Sprintf("%s: %d bytes of a record that was never accepted were cut off at %d", d.File, d.Bytes, d.Offset)
	case d.Rest:
		return fmt.Sprintf("%s: damaged from record %d at %d on, %d bytes and at least one record are lost", d.File, d.Record, d.Offset, d.Bytes)
	}
	if d.Records > 1 {
		return fmt.Sprintf("%s: records %d to %d at %d are damaged and lost", d.File, d.Record, d.Record+d.Records-1, d.Offset)
	}
	return fmt.Sprintf("%s: record %d at %d is damaged and lost", d.File, d.Record, d.Offset)
}

// walk visits the records of a segment's content, from offset on, of which the first has the given number. What is damaged before a whole one is passed
// over; else the rest is. It returns where the last whole record ends and the number behind it.
func walk(content []byte, offset int, number uint64, visit func(number uint64, data []byte) (more bool), damaged func(Damage)) (end int, next uint64) {
	for {
		var more bool
		if offset, number, more = whole(content, offset, number, visit); !more || offset == len(content) {
			return offset, number
		}
		size, records, found := afterDamage(content[offset:], number)
		damaged(Damage{Offset: int64(offset), Bytes: int64(size), Record: number, Records: records, Rest: !found})
		if !found {
			return offset, number
		}
		offset, number = offset+size, number+records
	}
}

// whole visits records up to the first one that is not whole. It reports where that is, its number, and whether visit wants more.
func whole(content []byte, offset int, number uint64, visit func(number uint64, data []byte) (more bool)) (end int, next uint64, more bool) {
	for offset < len(content) {
		data, size, err := parseRecord(content[offset:], number)
		if err != nil {
			break
		}
		if !visit(number, data) {
			return offset, number, false
		}
		offset, number = offset+size, number+1
	}
	return offset, number, true
}

const (
	// searchRecords is how many records in a row may be damaged and are passed over: 64 KiB of small ones.
	searchRecords = 1024
	// searchBytes bounds the search for a whole record: 0.1 s of checksums.
	searchBytes = 256 << 20
)

// afterDamage searches for the next whole record behind one that is damaged, and returns how many bytes and records are before it; without one all of b.
func afterDamage(b []byte, number uint64) (size int, records uint64, found bool) {
	if length, ok := lengthOf(b); ok && recordHeader+length < len(b) {
		if _, _, err := parseRecord(b[recordHeader+length:], number+1); err == nil {
			return recordHeader + length, 1, true
		}
	}
	budget := searchBytes
	for at := 1; at < len(b) && budget > 0; at++ { // its length is wrong as well, or the next one is damaged too
		length, ok := lengthOf(b[at:])
		ok = ok && length > 0 // a stretch of zeros looks like empty records
		for records := uint64(1); ok && records <= min(searchRecords, mostRecords(at)) && budget > 0; records++ {
			budget -= recordHeader + length
			if _, _, err := parseRecord(b[at:], number+records); err == nil {
				return at, records, true
			}
		}
	}
	return len(b), 0, false
}

// mostRecords is how many records there can be in that many bytes; one where not even one fits.
func mostRecords(bytes int) uint64 { return uint64(max(1, bytes/recordHeader)) }

// torn reports whether something that is not whole is what a crash leaves of a write: the beginning of a record, or room without content.
func torn(rest []byte) bool {
	if len(bytes.Trim(rest, "\x00")) == 0 || len(rest) < recordHeader {
		return true
	}
	length := binary.LittleEndian.Uint32(rest)
	return length <= MaxRecord && int(length) > len(rest)-recordHeader
}

// openSegments reads all segments of a folder, the oldest first, and cuts off what a crash left half-written.
func openSegments(dir string, o Options) (segments []*segment, damages []Damage, err error) {
	entries, err := os.ReadDir(dir) // sorted by name, which is by number
	if err != nil {
		return nil, nil, err
	}
	names := slices.DeleteFunc(entries, func(e os.DirEntry) bool { return !strings.HasSuffix(e.Name(), segmentSuffix) })
	unread := false // the one before
	for i, e := range names {
		s, found, err := openSegment(filepath.Join(dir, e.Name()), i == len(names)-1, o)
		damages = append(damages, found...)
		if err != nil {
			return nil, damages, err
		}
		if s == nil {
			unread = true // and told
			continue
		}
		if n := len(segments); n > 0 && !unread && s.id != "" && segments[n-1].next() < s.first { // numbers go on from segment to segment
			damages = append(damages, missing(dir, segments[n-1].next(), s.first))
		}
		segments = append(segments, s)
		unread = slices.ContainsFunc(found, func(d Damage) bool { return d.Rest })
	}
	return segments, damages, nil
}

// missing is the damage of segments that somebody has removed.
func missing(dir string, first, next uint64) Damage {
	return Damage{File: segmentPath(dir, first), Record: first, Records: next - first}
}

// openSegment reads one segment; nil where it is none.
func openSegment(path string, last bool, o Options) (s *segment, damages []Damage, err error) {
	content, intact, err := readFile(path, o)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	h, ok := parseHeader(content)
	first := h.first
	if !ok {
		// A crash while it was made; or a damage, and then it is left for a person to look at.
		torn := last && intact && len(content) <= headerLength
		_, _ = fmt.Sscanf(filepath.Base(path), "%d"+segmentSuffix, &first) // 0 in a file that somebody else has put there
		damages = append(damages, Damage{File: path, Bytes: int64(len(content)), Record: first, Torn: torn, Rest: !torn})
		if torn {
			return nil, damages, os.Remove(path)
		}
		return nil, damages, os.Rename(path, path+damagedSuffix)
	}
	skips := map[int64]Damage{}
	end, next := walk(content, h.length, first, func(uint64, []byte) bool { return true }, func(d Damage) {
		d.File = path
		damages = append(damages, d)
		skips[d.Offset] = d
	})
	s = &segment{path: path, id: h.id, header: int64(h.length), first: first, count: next - first, size: int64(end), skips: skips}
	for i := range damages {
		d := &damages[i]
		// An append is one write behind what was there: only the last segment can end in a part of one.
		if d.Torn = d.Rest && last && intact && torn(content[end:]); d.Torn {
			d.Rest = false
			err = os.Truncate(path, s.size)
			continue
		}
		// Where the disk has no room for a copy it stands in the segment still. Nothing else is changed: whoever opens it next is to be told as well, until the
		// rest has arrived.
		_ = d.keep(h.id, content[d.Offset:d.Offset+d.Bytes])
	}
	return s, damages, err
}
