package spool

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Options bound a spool. The zero value is useful.
type Options struct {
	// Max is the most bytes on disk; beyond it Append returns ErrFull. Default: 1 GiB.
	Max int64
	// Segment is how large a segment grows, in bytes, before the next one begins. Default: 16 MiB.
	Segment int64
	// Damaged is called when it is found out that segments are gone, since somebody has removed them. It must be quick. Default: nobody is told until
	// they are read.
	Damaged func(Damage)
	// Except names slots that are passed over. Default: none.
	Except func(dir string) bool
	// PassOver takes what the disk can't read for damaged, so that the rest can be had. Default: a slot with such a place is not opened.
	PassOver bool

	passOver time.Duration // for how long a place is read again
	readAt   readAt
}

func (o Options) withDefaults() Options {
	o.Max, o.Segment = cmp.Or(o.Max, 1<<30), cmp.Or(o.Segment, 16<<20)
	o.passOver = cmp.Or(o.passOver, passOverAfter)
	if o.readAt == nil {
		o.readAt = (*os.File).ReadAt
	}
	return o
}

// Errors of Append.
var (
	// ErrFull: the spool has as many bytes as it may have. Nothing of the call was kept.
	ErrFull = errors.New("spool is full")
	// ErrDisk: the disk refused. Nothing of the call was kept.
	ErrDisk = errors.New("spool can't be written")
	// ErrClosed: the spool is closed.
	ErrClosed = errors.New("spool is closed")
)

// Log is an open spool. It may be used by many goroutines; records that one of them appends after another's Append has returned stand behind those.
type Log struct {
	slot     *slot
	server   Server // the keeper's
	id       string
	options  Options
	damages  []Damage
	requests chan request
	closing  chan struct{}
	ended    chan struct{}

	submitting sync.WaitGroup

	active *os.File // of the last segment; the keeper's
	buffer []byte   // the keeper's
	create func(dir, id string, first uint64) (*segment, *os.File, error)

	mu       sync.Mutex // guards what follows
	segments []*segment // the oldest first; at least one
	drained  uint64     // everything up to this number has arrived
	failure  error      // why the last write failed; nil: it did not
	closed   bool
}

// request is something for the keeper to do: records to append, or else a number up to which all has arrived, or else to find out whether
// the disk takes writes again, or else to note which server it is.
type request struct {
	records [][]byte
	drained uint64
	heal    bool
	server  *Server
	done    func(first uint64, err error)
}

// Open takes a slot in a folder for records for the server, with what a dead process left there. One that can't be read is left to Adopt.
func Open(dir string, server Server, o Options) (*Log, error) {
	unread := map[string]bool{}
	for {
		slot, err := takeSlot(dir, server, func(path string) bool { return unread[path] || o.Except != nil && o.Except(path) })
		if err != nil {
			return nil, fmt.Errorf("open spool in %s: %w", dir, err)
		}
		l, err := slot.open(server, o)
		if !errors.Is(err, ErrUnreadable) {
			return l, err
		}
		unread[slot.dir] = true
	}
}

// open opens the log in a slot that this process has, and gives the slot up where it can't.
func (s *slot) open(server Server, o Options) (*Log, error) {
	o = o.withDefaults()
	l := &Log{slot: s, server: server, id: rand.Text(), options: o, requests: make(chan request, 256), closing: make(chan struct{}), ended: make(chan struct{}), create: createSegment}
	if err := l.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("open spool in %s: %w", s.dir, err), s.close())
	}
	go l.keep()
	return l, nil
}

// load reads what is there, and opens the last segment for more.
func (l *Log) load() error {
	segments, damages, err := openSegments(l.slot.dir, l.options)
	if err != nil {
		return err
	}
	l.segments, l.damages = segments, damages
	l.reserve()
	next := uint64(1)
	for _, s := range segments {
		next = s.next()
		if s.id == "" {
			s.id = l.slot.id
		}
	}
	if len(segments) > 0 {
		l.drained = segments[0].first - 1
	}
	// What this process spools has an ID of its own: whoever has a copy of this folder goes on with the same numbers, and so did what can't be
	// read any more.
	err = l.roll(next)
	if err != nil && len(segments) > 0 {
		_ = l.failed(err) // a disk that is full of what can be drained; the next append begins a segment
		return nil
	}
	return err
}

// roll begins another segment. The keeper's, or its predecessor's.
func (l *Log) roll(first uint64) error {
	if mine := l.ownEmpty(first); mine != "" {
		clear := os.Remove
		if info, err := os.Stat(mine); err == nil && l.active == nil && info.Size() > int64(headerLength) {
			clear = func(path string) error { return os.Rename(path, path+damagedSuffix) } // nothing of it could be read
		}
		if err := clear(mine); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	s, f, err := l.create(l.slot.dir, l.id, first)
	if err != nil {
		// A disk that is full of what has arrived: the segment that makes it go needs a little room.
		_ = os.Remove(l.reservePath())
		if s, f, err = l.create(l.slot.dir, l.id, first); err != nil {
			return err
		}
	}
	if l.active != nil {
		_ = l.active.Close() // it is synced
	}
	l.active = f
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.segments); n > 0 && l.last().next() == first && l.last().count == 0 {
		l.segments = l.segments[:n-1] // nothing stands in it, and the new one has its name
	}
	l.segments = append(l.segments, s)
	l.failure = nil // the disk takes writes
	if len(l.segments) == 1 {
		l.drained = first - 1
	}
	return nil
}

// ownEmpty names the last segment where nothing stands in it and the next one has its name; empty: it is another one, which is not ours to
// remove.
func (l *Log) ownEmpty(first uint64) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.segments) == 0 || l.last().count > 0 || l.last().first != first {
		return ""
	}
	if l.active != nil && l.unlinked(l.last().path) != nil {
		return ""
	}
	return l.last().path
}

// reserveLength is the room that is kept for a segment on a disk that is full, in bytes: a few blocks of any file system.
const reserveLength = 64 << 10

func (l *Log) reservePath() string { return filepath.Join(l.slot.dir, "reserve") }

// reserve takes room on the disk, to be given up when a segment is needed and there is no other. Where it can't there is none.
func (l *Log) reserve() {
	if info, err := os.Stat(l.reservePath()); err == nil && info.Size() == reserveLength {
		return
	}
	if err := os.WriteFile(l.reservePath(), make([]byte, reserveLength), 0o600); err != nil {
		_ = os.Remove(l.reservePath())
	}
}

// ID is that of the records that this process appends: no other process has had it, nor this one before.
func (l *Log) ID() string { return l.id }

// Dir is its folder.
func (l *Log) Dir() string { return l.slot.dir }

// Damages is what could not be read when it was opened.
func (l *Log) Damages() []Damage { return l.damages }

// Append keeps records, all or none, in order, and calls done with the number of the first when they are on disk, or with why they are not there. It
// returns before that; done is called exactly once, and must be quick.
func (l *Log) Append(records [][]byte, done func(first uint64, err error)) {
	err := check(records)
	if err == nil {
		err = l.submit(request{records: records, done: done})
	}
	if err != nil {
		done(0, err)
	}
}

func check(records [][]byte) error {
	if len(records) == 0 {
		return errors.New("append nothing")
	}
	for _, r := range records {
		if len(r) > MaxRecord {
			return fmt.Errorf("record of %d bytes: at most %d are allowed", len(r), MaxRecord)
		}
	}
	return nil
}

// Drained says that everything up to a number has arrived at the server: its room is given back, a segment at a time.
func (l *Log) Drained(upTo uint64) error {
	return l.ask(request{drained: upTo})
}

// IsFor notes which server the records are for, now that more is known of it.
func (l *Log) IsFor(server Server) error { return l.ask(request{server: &server}) }

// ask has the keeper do something, and waits until it is done.
func (l *Log) ask(r request) error {
	answer := make(chan error, 1)
	r.done = func(_ uint64, err error) { answer <- err }
	if err := l.submit(r); err != nil {
		return err
	}
	return <-answer
}

// submit asks the keeper for something. What it takes it does, also when the spool is closed meanwhile.
func (l *Log) submit(r request) error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	l.submitting.Add(1)
	l.mu.Unlock()
	defer l.submitting.Done()
	l.requests <- r
	return nil
}

// Stats is how much a spool holds.
type Stats struct {
	Records  uint64 // that have not arrived
	Bytes    int64  // on disk
	Max      int64  // that are allowed
	First    uint64 // behind everything that has arrived
	Next     uint64 // number of the next record
	Segments int
	Err      error // why nothing can be appended now; nil: it can
}

// Stats describes the spool.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Stats{Max: l.options.Max, First: l.drained + 1, Next: l.last().next(), Segments: len(l.segments), Bytes: l.bytes(), Err: l.failure}
	for _, of := range l.segments { // between two of them there are numbers that no record has, where one was damaged
		s.Records += of.next() - min(max(of.first, s.First), of.next())
	}
	return s
}

// Heal finds out whether a disk that refused takes writes again, as an append would: Stats has no error then.
func (l *Log) Heal() error {
	if l.Stats().Err == nil {
		return nil
	}
	return l.ask(request{heal: true})
}

// skip notes what is passed over in a segment from now on, and reports whether that is news.
func (l *Log) skip(s *segment, d Damage) (news bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	of := l.find(s)
	if of == nil {
		return false
	}
	if _, known := of.skips[d.Offset]; known {
		return false
	}
	skips := map[int64]Damage{d.Offset: d}
	maps.Copy(skips, of.skips)
	of.skips = skips
	return true
}

// find returns the segment that another one is a copy of; nil where it is not there any more. The lock is held.
func (l *Log) find(s *segment) *segment {
	for _, of := range l.segments {
		if of.path == s.path && of.id == s.id {
			return of
		}
	}
	return nil
}

// last is the segment that is appended to, bytes what all of them take. The lock is held.
func (l *Log) last() *segment { return l.segments[len(l.segments)-1] }
func (l *Log) bytes() (n int64) {
	for _, s := range l.segments {
		n += s.size
	}
	return n
}

// Close writes what is queued, and gives the slot up.
func (l *Log) Close() error {
	l.mu.Lock()
	first := !l.closed
	l.closed = true
	l.mu.Unlock()
	if first {
		l.submitting.Wait() // the keeper takes what is on its way
		close(l.closing)
	}
	<-l.ended
	if !first {
		return nil
	}
	var err error
	if l.active != nil {
		err = l.active.Close()
	}
	return errors.Join(err, l.slot.close())
}
