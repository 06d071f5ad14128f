package spool

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// slot is a folder that this process has.
type slot struct {
	dir  string
	lock *os.File
	id   string
}

// owner says whose records a slot holds.
type owner struct {
	Server string `json:"server"` // that they are for
	ID     string `json:"id"`     // of the records in segments of the first version
}

// maxSlots is how many processes may share a data folder.
const maxSlots = 64

// takeSlot takes the first slot of the folder that no living process has and that is for this server, or makes one. Those of other servers that
// hold records and have nobody are returned as well. Those that except names are passed over.
func takeSlot(dir, server string, except func(dir string) bool) (s *slot, others []string, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, err
	}
	for n := range maxSlots {
		path := slotPath(dir, n)
		if except != nil && except(path) {
			continue
		}
		s, foreign, err := openSlot(path, server)
		switch {
		case err != nil:
			return nil, others, err
		case foreign:
			if holdsRecords(path) {
				others = append(others, path)
			}
		case s != nil:
			return s, others, nil
		}
	}
	return nil, others, fmt.Errorf("all %d slots in %s are taken", maxSlots, dir)
}

func slotPath(dir string, n int) string { return filepath.Join(dir, fmt.Sprintf("spool-%d", n)) }

// Adopt opens the first slot of the folder with records for the server, or damages, that a dead process has left; nil where there is
// none. Whoever has drained it closes it, and it is there for the next process. With an error it returns the slot that can't be opened.
func Adopt(dir, server string, o Options) (l *Log, slot string, err error) {
	for n := range maxSlots {
		path := slotPath(dir, n)
		if o.Except != nil && o.Except(path) {
			continue
		}
		if _, err := os.Stat(filepath.Join(path, "owner")); errors.Is(err, os.ErrNotExist) || isEmpty(path) {
			continue
		}
		s, _, err := openSlot(path, server)
		if err != nil {
			return nil, path, err
		}
		if s == nil {
			continue
		}
		l, err := s.open(server, o)
		if err != nil {
			return nil, path, err
		}
		if l.Stats().Records > 0 || len(l.Damages()) > 0 { // which nobody would be told of again
			return l, path, nil
		}
		if err := l.Close(); err != nil {
			return nil, path, err
		}
	}
	return nil, "", nil
}

// isEmpty reports whether the segments of a slot are nothing but headers.
func isEmpty(path string) bool {
	entries, err := os.ReadDir(path)
	if err != nil {
		return false // whoever opens it finds out
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), segmentSuffix) {
			continue
		}
		if info, err := e.Info(); err != nil || info.Size() != int64(headerLength) && info.Size() != int64(headerSlotLength) {
			return false
		}
	}
	return true
}

// openSlot takes one slot; nil where a living process has it.
func openSlot(path, server string) (s *slot, foreign bool, err error) {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, false, err
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, false, err
	}
	if taken, err := tryLock(lock); err != nil || taken {
		_ = lock.Close()
		return nil, false, err
	}
	s = &slot{dir: path, lock: lock}
	o, err := s.claim(server)
	if err != nil || o.Server != server {
		_ = s.close()
		return nil, err == nil, err
	}
	s.id = o.ID
	return s, false, nil
}

// claim reads whose slot it is, or makes it this server's.
func (s *slot) claim(server string) (owner, error) {
	o, err := s.read()
	if errors.Is(err, os.ErrNotExist) {
		o = owner{Server: server, ID: rand.Text()}
		err = s.write(o)
	}
	return o, err
}

func (s *slot) read() (o owner, err error) {
	path := filepath.Join(s.dir, "owner")
	text, err := os.ReadFile(path)
	if err != nil {
		return o, err
	}
	if err := json.Unmarshal(text, &o); err != nil || o.ID == "" {
		return owner{}, fmt.Errorf("%s is damaged: it should say whose records these are", path)
	}
	return o, nil
}

func (s *slot) write(o owner) error {
	text, _ := json.Marshal(o) // two strings always marshal
	return writeSynced(filepath.Join(s.dir, "owner"), text)
}

// writeSynced writes a file so that it is there as a whole or not at all.
func writeSynced(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, keepOwner(f, path), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes names in a folder survive a crash of the machine.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (s *slot) close() error { return errors.Join(unlock(s.lock), s.lock.Close()) }
