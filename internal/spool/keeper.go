package spool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// keep is the keeper: the one goroutine that changes anything on disk. It takes all that is asked for at that moment, writes it in one go and syncs once:
// a lone caller waits for nothing but the disk, and many callers share it.
func (l *Log) keep() {
	defer close(l.ended)
	for {
		select {
		case r := <-l.requests:
			l.serve(l.more(r))
		case <-l.closing:
			for batch := l.more(); len(batch) > 0; batch = l.more() {
				l.serve(batch)
			}
			return
		}
	}
}

// more adds what else is asked for now.
func (l *Log) more(batch ...request) []request {
	for len(batch) < cap(l.requests) {
		select {
		case r := <-l.requests:
			batch = append(batch, r)
		default:
			return batch
		}
	}
	return batch
}

// serve does what is asked for. What has arrived goes first: it makes room.
func (l *Log) serve(batch []request) {
	for _, r := range batch {
		switch {
		case r.heal:
			r.done(0, l.heal())
		case r.server != nil:
			l.server = *r.server
			r.done(0, l.slot.write(l.owner()))
		case r.records == nil:
			r.done(0, l.drop(r.drained))
		}
	}
	for len(batch) > 0 {
		batch = l.commit(batch)
	}
}

// commit appends as much of the batch as goes into one segment, syncs, and answers. It returns the rest.
func (l *Log) commit(batch []request) (rest []request) {
	l.mu.Lock()
	last, room := *l.last(), l.options.Max-l.bytes()
	l.mu.Unlock()
	if gone := l.unlinked(last.path); gone != nil {
		if err := l.replace(last); err != nil {
			l.refuse(batch, l.failed(errors.Join(gone, err)))
			return nil
		}
		return batch
	}
	if last.size >= l.options.Segment {
		if room < int64(headerLength) {
			l.refuse(batch, ErrFull)
			return nil
		}
		if err := l.roll(last.next()); err != nil {
			l.refuse(batch, l.failed(err))
			return nil
		}
		return batch
	}

	var kept []request
	number, size := last.next(), last.size
	l.buffer = l.buffer[:0]
	for i, r := range batch {
		if r.records == nil {
			continue
		}
		if size+int64(len(l.buffer)) >= l.options.Segment {
			rest = batch[i:]
			break
		}
		before := len(l.buffer)
		n := number
		for _, data := range r.records {
			l.buffer = appendRecord(l.buffer, n, data)
			n++
		}
		if int64(len(l.buffer)) > room {
			l.buffer = l.buffer[:before]
			r.done(0, ErrFull)
			continue
		}
		number = n
		kept = append(kept, r)
	}
	if len(kept) == 0 {
		return rest
	}
	if err := l.write(last.size); err != nil {
		l.refuse(kept, l.failed(err))
		return rest
	}
	l.mu.Lock()
	l.last().size += int64(len(l.buffer))
	l.last().count = number - last.first
	l.failure = nil
	l.mu.Unlock()
	number = last.next()
	for _, r := range kept {
		r.done(number, nil)
		number += uint64(len(r.records))
	}
	return rest
}

// replace begins a segment in the place of one that somebody has removed, and tells of its records: those that have not arrived are lost, but
// for what a reader still has open. Where no segment could be begun at the start, none is gone.
func (l *Log) replace(s segment) error {
	removed := l.active != nil
	if err := l.retake(); err != nil {
		return err
	}
	if err := l.roll(s.next()); err != nil || !removed {
		return err
	}
	l.mu.Lock()
	d := missing(l.slot.dir, max(s.first, l.drained+1), max(s.next(), l.drained+1))
	l.mu.Unlock()
	if d.Records > 0 && l.options.Damaged != nil && l.skip(&s, d) {
		l.options.Damaged(d)
	}
	return nil
}

// retake makes sure that the folder is still the one that this process has locked. Where somebody has removed it, it takes it again, unless
// another process has.
func (l *Log) retake() error {
	path := filepath.Join(l.slot.dir, "lock")
	mine, err := l.slot.lock.Stat()
	if err != nil {
		return err
	}
	if there, err := os.Stat(path); err != nil || !os.SameFile(there, mine) {
		lock, err := openLock(l.slot.dir)
		if err != nil {
			return err
		}
		if taken, err := tryLock(lock); err != nil || taken {
			return errors.Join(err, fmt.Errorf("%s: %w", l.slot.dir, ErrInUse), lock.Close())
		}
		_ = l.slot.lock.Close() // of a file that is gone
		l.slot.lock = lock
	}
	if _, err := os.Stat(filepath.Join(l.slot.dir, "owner")); errors.Is(err, os.ErrNotExist) {
		return l.slot.write(l.owner()) // else nobody would find what is left here
	}
	return nil
}

func (l *Log) owner() owner { return owner{l.server.Address, l.server.ID, l.slot.id} }

// unlinked returns why the file that is written to is not the one of that name: somebody has removed it, and what it keeps goes with this
// process.
func (l *Log) unlinked(path string) error {
	there, err := os.Stat(path)
	if err != nil {
		return err
	}
	if mine, err := l.active.Stat(); err != nil || !os.SameFile(there, mine) {
		return errors.Join(fmt.Errorf("%s is another file than it was", path), err)
	}
	return nil
}

// heal finds out whether a disk that refused takes writes again: as much as it keeps room for otherwise.
func (l *Log) heal() error {
	l.mu.Lock()
	last := *l.last()
	l.mu.Unlock()
	path := filepath.Join(l.slot.dir, "heal")
	if err := errors.Join(os.WriteFile(path, make([]byte, reserveLength), 0o600), os.Remove(path)); err != nil {
		return err
	}
	if l.unlinked(last.path) != nil {
		return l.replace(last)
	}
	if err := errors.Join(l.active.Truncate(last.size), l.active.Sync()); err != nil { // what the write has left that failed
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failure = nil
	return nil
}

// write writes the buffer behind what is there, and syncs. Where that fails, what of it may stand there is cut off: it is refused, and must not be found
// when the spool is opened.
func (l *Log) write(at int64) error {
	l.mu.Lock()
	unclean := l.failure != nil
	l.mu.Unlock()
	if unclean {
		if err := errors.Join(l.active.Truncate(at), l.active.Sync()); err != nil {
			return err
		}
	}
	_, err := l.active.WriteAt(l.buffer, at)
	if err == nil {
		err = l.active.Sync()
	}
	if err != nil {
		_ = l.active.Truncate(at) // again before the next write
	}
	return err
}

// failed notes that the disk refused.
func (l *Log) failed(err error) error {
	err = fmt.Errorf("%w: %w", ErrDisk, err)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failure = err
	return err
}

func (l *Log) refuse(batch []request, err error) {
	for _, r := range batch {
		if r.records != nil {
			r.done(0, err)
		}
	}
}

// drop deletes the segments of which everything has arrived. Where all of them have, an empty one takes their place, so that no number comes twice.
func (l *Log) drop(upTo uint64) error {
	l.mu.Lock()
	next := l.last().next()
	upTo = min(upTo, next-1)
	l.drained = max(l.drained, upTo)
	all := l.drained == next-1 && l.last().count > 0
	l.mu.Unlock()
	if all {
		if err := l.roll(next); err != nil {
			return l.failed(err)
		}
	}
	var errs []error
	for {
		l.mu.Lock()
		oldest := l.segments[0]
		done := len(l.segments) > 1 && oldest.next() <= l.drained+1
		if done {
			l.segments = l.segments[1:]
		}
		l.mu.Unlock()
		if !done {
			l.reserve()
			return errors.Join(errs...)
		}
		if err := os.Remove(oldest.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err) // its records come again when it is opened, under the numbers that they had
		}
	}
}
