package spool

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Record is one record, with what names it for ever: the ID of the spool that it was kept in, and its number there. (Export leaves the
// ID of the slot out, in a segment of the first version.)
type Record struct {
	ID     string
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
	ahead  []byte // what was read from offset on, and not returned
	failed failure
}

// failure is where the disk could not be read, and since when.
type failure struct {
	path   string
	offset int64
	since  time.Time
}

// passOverAfter is for how long a place is read again that the disk can't read, before what stands there is lost.
const passOverAfter = time.Minute

// readAtOnce is how much of a segment is read at a time, unless one record is longer.
const readAtOnce = 1 << 20

// Reader returns a reader that begins behind what has arrived.
func (l *Log) Reader() *Reader { return &Reader{log: l, next: l.Stats().First} }

// Next is the number of the record that the next Read begins with, or what comes behind it. What stands before was returned, or is lost.
func (r *Reader) Next() uint64 { return r.next }

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
	r.file, r.of, r.ahead = nil, nil, nil
}

// Read returns up to most of the records that come next; none where there are none now. One that was damaged when the spool was opened is passed over:
// Log.Damages has named it. One that is damaged since, or whose segment is gone, is an error, a Damage, once: the next call passes it over. So is what the disk
// can't read, when it has refused for a minute; before that its error is returned.
func (r *Reader) Read(most int) ([]Record, error) {
	for {
		s, end := r.segment()
		if s == nil {
			return nil, nil
		}
		if err := r.enter(s); errors.Is(err, os.ErrNotExist) {
			if err := r.missing(s); err != nil {
				return nil, err
			}
			continue
		} else if err != nil {
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
	if !s.isIn(f) { // somebody has put another one in its place
		return errors.Join(os.ErrNotExist, f.Close())
	}
	r.file, r.of, r.offset, r.at = f, s, s.header, s.first
	return nil
}

// isIn reports whether a file is that of the segment. One that begins with something else altogether is, and was damaged.
func (s *segment) isIn(f *os.File) bool {
	b := make([]byte, headerLength)
	n, _ := f.ReadAt(b, 0)
	h, ok := parseHeader(b[:n])
	return !ok || h.id == "" || h.id == s.id
}

// missing reports that a segment is gone, unless what it held has arrived meanwhile.
func (r *Reader) missing(s *segment) error {
	d := missing(filepath.Dir(s.path), s.first, s.next())
	d.Record, d.Records = max(d.Record, r.next), s.next()-max(d.Record, r.next)
	r.next = s.next()
	if !r.log.skip(s, d) {
		return nil
	}
	return d
}

// damaged notes that what comes next can't be read any more, which was whole when it was opened, or written since, and reports it, unless
// another reader has.
func (r *Reader) damaged(end int64) error {
	content := make([]byte, end-r.offset)
	n, err := r.readAt(content)
	if err != nil && !isCut(err) {
		return err
	}
	size, records, found := afterDamage(content[:n], r.at)
	if !found { // or it was cut off
		size, records = len(content), r.of.next()-r.at
	}
	d := Damage{File: r.of.path, Offset: r.offset, Bytes: int64(size), Record: r.at, Records: records}
	news := r.log.skip(r.of, d) && r.at+d.Records > r.next // else all of it has arrived, or another reader has told it
	r.advance(int(d.Bytes), r.at+d.Records)
	r.next = max(r.next, r.at)
	if !news {
		return nil
	}
	if err := d.keep(r.of.id, content[:min(size, n)]); err != nil {
		return errors.Join(d, err)
	}
	return d
}

// readAt reads what comes next, and what the disk can't read as zeros, once it has refused that for long enough.
func (r *Reader) readAt(content []byte) (n int, err error) {
	o := &r.log.options
	n, err = o.readAt(r.file, content, r.offset)
	if err == nil || isCut(err) {
		if r.failed.path == r.of.path && r.failed.offset == r.offset {
			r.failed = failure{} // it was not for good
		}
		return n, err
	}
	if f := (failure{r.of.path, r.offset, r.failed.since}); r.failed != f {
		f.since = time.Now()
		r.failed = f
	}
	if !o.PassOver && time.Since(r.failed.since) < o.passOver {
		return n, err
	}
	return readThrough(o.readAt, r.file, content, r.offset)
}

// readThrough reads like ReadAt, and what the disk can't read as zeros, a block at a time.
func readThrough(readAt readAt, f *os.File, b []byte, at int64) (n int, err error) {
	for n < len(b) {
		to := min(len(b), n+readBlock-int((at+int64(n))%readBlock)) // the end of a block of the file
		m, err := readAt(f, b[n:to], at+int64(n))
		if isCut(err) {
			return n + m, err
		}
		if err != nil {
			clear(b[n+m : to])
		}
		n = to
	}
	return n, nil
}

// readBlock is how much is given up at a time, in bytes: a block of most file systems.
const readBlock = 4096

// readAt reads a file as its ReadAt does.
type readAt func(f *os.File, b []byte, at int64) (n int, err error)

// readFile reads a file as a whole. What the disk can't read is an error, or where that is to be passed over, zeros: then the file is not whole.
func readFile(path string, o Options) (content []byte, whole bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, false, err
	}
	content, whole = make([]byte, info.Size()), true
	n, err := o.readAt(f, content, 0)
	if err != nil && !isCut(err) && o.PassOver {
		n, err = readThrough(o.readAt, f, content, 0)
		whole = false
	}
	if isCut(err) {
		err = nil // a living process has cut it meanwhile
	}
	return content[:n], whole, err
}

// advance goes on behind so many bytes, to the record of that number.
func (r *Reader) advance(bytes int, number uint64) {
	r.offset, r.at, r.ahead = r.offset+int64(bytes), number, r.ahead[min(bytes, len(r.ahead)):]
}

// isCut reports whether a file is shorter than it was.
func isCut(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

// read reads on in the segment that it is in, up to end.
func (r *Reader) read(most int, end int64) (records []Record, err error) {
	for size := int64(readAtOnce); len(records) == 0 && r.offset < end; {
		if d, ok := r.of.skips[r.offset]; ok && !d.Rest {
			r.advance(int(d.Bytes), r.at+d.Records)
			continue
		}
		content, fresh, all := r.ahead, len(r.ahead) == 0, false
		if fresh {
			content = make([]byte, min(size, end-r.offset))
			n, err := r.readAt(content)
			if err != nil && !isCut(err) {
				return nil, err
			}
			content, all = content[:n], err != nil || r.offset+int64(n) == end
		}
		used, number, _ := whole(content, 0, r.at, func(number uint64, data []byte) bool {
			if len(records) == most {
				return false
			}
			if number >= r.next {
				records = append(records, Record{r.of.id, number, data})
			}
			return true
		})
		if used == 0 && all && len(records) == 0 {
			if err := r.damaged(end); err != nil {
				return nil, err
			}
			continue
		}
		r.ahead = content
		r.advance(used, number)
		if used == 0 { // one record is longer, or the next stretch is damaged
			r.ahead = nil
			if fresh {
				size = min(2*size, end)
			}
		}
	}
	if n := len(records); n > 0 {
		r.next = records[n-1].Number + 1
	}
	return records, nil
}
