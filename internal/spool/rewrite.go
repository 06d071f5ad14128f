package spool

import (
	"crypto/rand"
	"errors"
	"fmt"
)

// Rewrite puts other records in the place of some in a slot that no living process has: change returns what, or nil to leave a record as
// it is. Numbers and IDs stay, and so does what can't be read. A crash leaves each segment as it was, or as it is to be.
func Rewrite(slot string, change func(Record) []byte) error {
	return withLock(slot, func() error {
		return eachSegment(slot, Options{}, func(h header, content []byte) error {
			changed := append([]byte(nil), content[:h.length]...)
			at, news := h.length, false // what stands before is in changed
			end, _ := walk(content, h.length, h.first, func(number uint64, data []byte) bool {
				size := recordHeader + len(data)
				if other := change(Record{h.id, number, data}); other != nil {
					changed, news = appendRecord(changed, number, other), true
				} else {
					changed = append(changed, content[at:at+size]...)
				}
				at += size
				return true
			}, func(d Damage) {
				changed = append(changed, content[at:at+int(d.Bytes)]...)
				at += int(d.Bytes)
			})
			if !news {
				return nil
			}
			changed = append(changed, content[max(at, end):]...)
			return writeSynced(segmentPath(slot, h.first), changed)
		})
	})
}

// Assign makes a slot that no living process has one for another server, also where nothing says for which one it was.
func Assign(dir string, server Server) error {
	return withLock(dir, func() error {
		o, err := readOwner(dir)
		if err != nil {
			o.ID = rand.Text()
		}
		o.Server, o.Redis = server.Address, server.ID
		return (&slot{dir: dir}).write(o)
	})
}

// withLock does something with a slot that no living process has.
func withLock(slot string, do func() error) error {
	lock, err := openLock(slot)
	if err != nil {
		return err
	}
	defer lock.Close()
	if taken, err := tryLock(lock); err != nil || taken {
		return errors.Join(err, fmt.Errorf("%s: %w", slot, ErrInUse))
	}
	return errors.Join(do(), unlock(lock))
}
