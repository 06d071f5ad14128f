package spool

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// slot is a folder that this process has.
type slot struct {
	dir  string
	lock *os.File
	id   string
}

// Server is what records are for: a server is known by the ID that is kept in it, and by the address that a process was given for it before
// the first contact.
type Server struct {
	Address string
	ID      string // empty: it is not known yet
}

// Is reports whether two are the same. One that has lost its ID, with all that it kept, is the same still at its address.
func (s Server) Is(other Server) bool {
	return s.Address == other.Address || s.ID != "" && s.ID == other.ID
}

// owner says whose records a slot holds.
type owner struct {
	Server string `json:"server"`          // address of the one that they are for
	Redis  string `json:"redis,omitempty"` // its ID
	ID     string `json:"id"`              // of the records in segments of the first version
}

func (o owner) server() Server { return Server{o.Server, o.Redis} }

// maxSlots is how many processes may share a data folder.
const maxSlots = 64

var (
	// ErrInUse: a living process has the slot.
	ErrInUse = errors.New("a running process has it")
	// ErrForeign: the slot is for another server.
	ErrForeign = errors.New("it is for another server")
	// ErrUnreadable: the disk, or the rights of files, let nobody read what stands in it.
	ErrUnreadable = errors.New("it can't be read")
)

// takeSlot takes the first slot of the folder that no living process has and that is for this server, or is empty, or makes one. Those that
// except names are passed over, and so is one that can't be taken, as long as there is another: List names it.
func takeSlot(dir string, server Server, except func(dir string) bool) (*slot, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	var bad error
	for n := range maxSlots {
		path := slotPath(dir, n)
		if except != nil && except(path) {
			continue
		}
		s, err := openSlot(path, server)
		switch {
		case err == nil:
			return s, nil
		case !errors.Is(err, ErrInUse) && !errors.Is(err, ErrForeign):
			bad = cmp.Or(bad, err)
		}
	}
	return nil, cmp.Or(bad, fmt.Errorf("all %d slots in %s are taken", maxSlots, dir))
}

func slotPath(dir string, n int) string { return filepath.Join(dir, fmt.Sprintf("spool-%d", n)) }

// Adopt opens a slot with records for the server, or damages, that a dead process has left; nil where it holds nothing of both. Whoever has
// drained it closes it, and it is there for the next process. The error is ErrInUse or ErrForeign, or why it can't be opened.
func Adopt(path string, server Server, o Options) (*Log, error) {
	s, err := openSlot(path, server)
	if err != nil {
		return nil, err
	}
	l, err := s.open(server, o)
	if err != nil {
		return nil, err
	}
	if l.Stats().Records > 0 || len(l.Damages()) > 0 { // which nobody would be told of again
		return l, nil
	}
	return nil, l.Close()
}

// openSlot takes one slot.
func openSlot(path string, server Server) (*slot, error) {
	err := os.Mkdir(path, 0o700)
	switch {
	case err == nil:
		likeFolder(path)
	case !errors.Is(err, os.ErrExist):
		return nil, err
	}
	lock, err := openLock(path)
	if err != nil {
		return nil, err
	}
	if taken, err := tryLock(lock); err != nil || taken {
		return nil, errors.Join(cmp.Or(err, ErrInUse), lock.Close())
	}
	s := &slot{dir: path, lock: lock}
	if s.id, err = s.claim(server); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// openLock opens the file that is locked by whoever has a slot.
func openLock(slot string) (*os.File, error) {
	path := filepath.Join(slot, "lock")
	lock, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		if lock, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600); err == nil {
			likeFolder(path)
		}
	}
	return lock, err
}

// claim makes sure that the slot is this server's, or makes it that where nothing stands in it.
func (s *slot) claim(server Server) (id string, err error) {
	o, err := readOwner(s.dir)
	_, holds, segmentsErr := segmentBytes(s.dir)
	holds = holds || segmentsErr != nil
	switch {
	case err != nil && holds:
		return "", err
	case err != nil:
		o.ID = rand.Text()
		return o.ID, s.write(owner{server.Address, server.ID, o.ID})
	case !o.server().Is(server) && holds:
		return "", ErrForeign
	case !o.server().Is(server):
		return o.ID, s.write(owner{server.Address, server.ID, o.ID})
	case o.Server != server.Address || o.Redis != server.ID && server.ID != "":
		// It has another address, or its ID is known now. Where the disk is too full to note that, it is found by what is there.
		_ = s.write(owner{server.Address, cmp.Or(server.ID, o.Redis), o.ID})
	}
	return o.ID, nil
}

// readOwner reads whose slot it is.
func readOwner(slot string) (o owner, err error) {
	path := filepath.Join(slot, "owner")
	text, err := os.ReadFile(path)
	if err != nil {
		return o, err
	}
	if err := json.Unmarshal(text, &o); err != nil || o.ID == "" || o.Server == "" {
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
	likeFolder(f.Name())
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
