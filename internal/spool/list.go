package spool

import (
	"cmp"
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// Slot describes a slot from outside, without taking it.
type Slot struct {
	Dir    string
	Server Server // that its records are for
	InUse  bool   // a living process has it
	Bytes  int64  // of its segments
	Holds  bool   // there may be records in them
	Err    error  // why no process can take it; nil: one can
}

// List describes the slots of a folder. It changes nothing, and reads no record.
func List(dir string) (slots []Slot) {
	for n := range maxSlots {
		s := Slot{Dir: slotPath(dir, n)}
		var err error
		if s.Bytes, s.Holds, err = segmentBytes(s.Dir); errors.Is(err, os.ErrNotExist) {
			continue
		}
		o, ownerErr := readOwner(s.Dir)
		if ownerErr != nil && !s.Holds && err == nil {
			continue // whoever takes it makes it its own
		}
		s.Server = o.server()
		var lockErr error
		s.InUse, lockErr = inUse(s.Dir)
		s.Err = cmp.Or(err, ownerErr, lockErr)
		slots = append(slots, s)
	}
	return slots
}

// segmentBytes returns the size of the segments of a slot, and whether one is more than its header.
func segmentBytes(slot string) (bytes int64, holds bool, err error) {
	entries, err := os.ReadDir(slot)
	if err != nil {
		return 0, false, err
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), segmentSuffix) {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue // a living process has deleted it meanwhile
		}
		if err != nil {
			return bytes, holds, err
		}
		bytes += info.Size()
		holds = holds || info.Size() != int64(headerLength) && info.Size() != int64(headerSlotLength)
	}
	return bytes, holds, nil
}

// inUse finds out by a lock that many may have at the same time. A slot without the file was never opened, or is a copy of one.
func inUse(path string) (bool, error) {
	lock, err := os.Open(filepath.Join(path, "lock"))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer lock.Close()
	taken, err := tryShare(lock)
	if err == nil && !taken {
		err = unlock(lock)
	}
	return taken, err
}

// Export visits the records that stand in a slot, the oldest first, also those that a living process is draining, and changes nothing. Damaged ones are
// passed over, and so is what the disk can't read: that is an error in the end.
func Export(slot string, visit func(Record) error) error {
	return eachSegment(slot, Options{PassOver: true}, func(h header, content []byte) (err error) {
		walk(content, h.length, h.first, func(number uint64, data []byte) bool {
			err = visit(Record{h.id, number, data})
			return err == nil
		}, func(Damage) {})
		return err
	})
}

// eachSegment reads the segments of a slot, the oldest first. One that a living process has deleted meanwhile is passed over. What the disk can't read
// is an error: at once, or in the end where it is to be passed over.
func eachSegment(slot string, o Options, visit func(h header, content []byte) error) error {
	entries, err := os.ReadDir(slot)
	if err != nil {
		return err
	}
	passOver := o.PassOver
	o = o.withDefaults()
	var unread error
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), segmentSuffix) {
			continue
		}
		path := filepath.Join(slot, e.Name())
		o.PassOver = false
		content, _, err := readFile(path, o)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil && passOver {
			unread, o.PassOver = cmp.Or(unread, err), true
			content, _, err = readFile(path, o)
		}
		if err != nil {
			return err
		}
		if h, ok := parseHeader(content); ok {
			if err := visit(h, content); err != nil {
				return err
			}
		}
	}
	return unread
}
