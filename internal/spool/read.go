package spool

import (
	"io"
	"os"
)

// Record is one record and its number.
type Record struct {
	Number uint64
	Data   []byte
}

// Reader reads a spool from the oldest record on. It is for one goroutine.
type Reader struct {
	log    *Log
	next   uint64 // number of the next record
	file   *os.File
	of     *segment
	offset int64
	at     uint64 // number of the record at offset
}

// readAtOnce is how much of a segment is read at a time, unless one record is longer.
const readAtOnce = 1 << 20

// Reader returns a reader that begins behind what has arrived.
func (l *Log) Reader() *Reader { return &Reader{log: l, next: l.Stats().First} }

// Seek makes the given record the next one.
func (r *Reader) Seek(number uint64) {
	r.next = number
	r.leave()
}

// Close frees what it holds. The reader may be used again.
func (r *Reader) Close() { r.leave() }

func (r *Reader) leave() {
	if r.file != nil {
		_ = r.file.Close()
	}
	r.file, r.of = nil, nil
}

// Read returns up to most of the records that come next; none where there are none now. One that was damaged when the spool was opened is passed over:
// Log.Damages has named it. One that is damaged since is an error.
func (r *Reader) Read(most int) ([]Record, error) {
	for {
		s, end := r.segment()
		if s == nil {
			return nil, nil
		}
		if err := r.enter(s); err != nil {
			return nil, err
		}
		records, err := r.read(most, end)
		if len(records) > 0 || err != nil {
			return records, err
		}
		r.next = max(r.next, s.next())
	}
}

// segment returns a copy of the segment that the next record is in, and where that ends by now; nil where there is no such record.
func (r *Reader) segment() (*segment, int64) {
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	r.next = max(r.next, r.log.segments[0].first)
	for _, s := range r.log.segments {
		if r.next < s.next() {
			found := *s
			return &found, s.size
		}
	}
	return nil, 0
}

func (r *Reader) enter(s *segment) error {
	if r.of != nil && r.of.path == s.path {
		r.of = s
		return nil
	}
	r.leave()
	f, err := os.Open(s.path)
	if err != nil {
		return err
	}
	r.file, r.of, r.offset, r.at = f, s, int64(headerLength), s.first
	return nil
}

// read reads on in the segment that it is in, up to end.
func (r *Reader) read(most int, end int64) (records []Record, err error) {
	for size := int64(readAtOnce); len(records) == 0 && r.offset < end; {
		if d, ok := r.of.skips[r.offset]; ok && !d.Rest {
			r.offset, r.at = r.offset+d.Bytes, r.at+d.Records
			continue
		}
		content := make([]byte, min(size, end-r.offset))
		if _, err := io.ReadFull(io.NewSectionReader(r.file, r.offset, int64(len(content))), content); err != nil {
			return nil, err
		}
		all := r.offset+int64(len(content)) == end
		used, number, _ := whole(content, 0, r.at, func(number uint64, data []byte) bool {
			if len(records) == most {
				return false
			}
			if number >= r.next {
				records = append(records, Record{number, data})
			}
			return true
		})
		if used == 0 && all && len(records) == 0 {
			return nil, errTorn // it was whole when it was opened
		}
		r.offset, r.at = r.offset+int64(used), number
		if used == 0 { // one record is longer, or the next stretch is damaged
			size = min(2*size, end)
		}
	}
	if n := len(records); n > 0 {
		r.next = records[n-1].Number + 1
	}
	return records, nil
}
