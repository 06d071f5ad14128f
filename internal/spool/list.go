package spool

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Info describes a slot from outside, without taking it.
type Info struct {
	Dir    string
	Server string // that its records are for
	InUse  bool   // a living process has it
	Bytes  int64  // on disk
}

// List describes the slots of a folder that hold anything, or are in use.
func List(dir string) (slots []Info, err error) {
	for n := range maxSlots {
		path := slotPath(dir, n)
		text, err := os.ReadFile(filepath.Join(path, "owner"))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return slots, err
		}
		var o owner
		if err := json.Unmarshal(text, &o); err != nil {
			return slots, fmt.Errorf("%s is damaged: %w", filepath.Join(path, "owner"), err)
		}
		info := Info{Dir: path, Server: o.Server}
		if info.InUse, err = inUse(path); err != nil {
			return slots, err
		}
		if err := eachSegment(path, func(_ header, content []byte) error { info.Bytes += int64(len(content)); return nil }); err != nil {
			return slots, err
		}
		slots = append(slots, info)
	}
	return slots, nil
}

func inUse(path string) (bool, error) {
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_RDWR, 0)
	if err != nil {
		return false, err
	}
	defer lock.Close()
	taken, err := tryLock(lock)
	if err == nil && !taken {
		err = unlock(lock)
	}
	return taken, err
}

// Export visits the records that stand in a slot, the oldest first, also those that a living process is draining, and changes nothing. Damaged ones are
// passed over.
func Export(slot string, visit func(Record) error) error {
	return eachSegment(slot, func(h header, content []byte) (err error) {
		walk(content, h.length, h.first, func(number uint64, data []byte) bool {
			err = visit(Record{h.id, number, data})
			return err == nil
		}, func(Damage) {})
		return err
	})
}

// eachSegment reads the segments of a slot, the oldest first. One that a living process has deleted meanwhile is passed over.
func eachSegment(slot string, visit func(h header, content []byte) error) error {
	entries, err := os.ReadDir(slot)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), segmentSuffix) {
			continue
		}
		content, err := os.ReadFile(filepath.Join(slot, e.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue
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
	return nil
}

// holdsRecords reports whether there is a record in a slot.
func holdsRecords(slot string) bool {
	found := errors.New("found")
	return errors.Is(Export(slot, func(Record) error { return found }), found)
}
