//go:build unix

package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"
)

// named returns who has appended what is in a spool, by what it is.
func named(t *testing.T, l *Log) map[string]string {
	t.Helper()
	r := l.Reader()
	defer r.Close()
	found := map[string]string{}
	for {
		records, err := r.Read(100)
		if err != nil {
			t.Fatal(err)
		}
		if len(records) == 0 {
			return found
		}
		for _, one := range records {
			found[string(one.Data)] = fmt.Sprint(one.ID, "/", one.Number)
		}
	}
}

// Processes of which one has the copy of the other's folder go on with the same numbers: no two records have the same name.
func TestP02CopiesNameTheirRecordsApart(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), Options{})
	id := l.ID()
	add(t, l, "a", "b")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	copied := t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(filepath.Dir(l.Dir()))); err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for i, dir := range []string{filepath.Dir(l.Dir()), copied} {
		l := open(t, dir, Options{})
		add(t, l, fmt.Sprint("own-", i))
		found := named(t, l)
		if found["a"] != id+"/1" || found["b"] != id+"/2" {
			t.Errorf("records do not keep their names: %v", found)
		}
		names[found[fmt.Sprint("own-", i)]] = true
	}
	if len(names) != 2 {
		t.Errorf("two records have one name: %v", names)
	}
}

// appendSlotHeader appends the header that segments of the first version have.
func appendSlotHeader(b []byte, first uint64) []byte {
	begin := len(b)
	b = binary.LittleEndian.AppendUint64(append(b, magicSlot...), first)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[begin:], castagnoli))
}

// What a process of the version before has left has the ID of its slot.
func TestP02SegmentsOfTheFirstVersionAreRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	slot := filepath.Join(dir, "spool-0")
	if err := os.Mkdir(slot, 0o700); err != nil {
		t.Fatal(err)
	}
	content := appendRecord(appendRecord(appendSlotHeader(nil, 7), 7, []byte("a")), 8, []byte("b"))
	err := errors.Join(os.WriteFile(segmentPath(slot, 7), content, 0o600),
		os.WriteFile(filepath.Join(slot, "owner"), []byte(`{"server":"redis-1","id":"OLD"}`), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	l := open(t, dir, Options{})
	if number := add(t, l, "c"); number != 9 {
		t.Errorf("number %d, want 9", number)
	}
	if found := named(t, l); found["a"] != "OLD/7" || found["b"] != "OLD/8" || found["c"] != l.ID()+"/9" {
		t.Errorf("found %v", found)
	}
}

// A start that spools nothing leaves nothing behind.
func TestP02StartsLeaveNoSegments(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), Options{})
	add(t, l, "a")
	for range 5 {
		l = reopen(t, l, Options{})
	}
	if s := l.Stats(); s.Segments != 2 || s.Records != 1 || s.Next != 2 {
		t.Errorf("stats %+v", s)
	}
}

// Records that are damaged while the spool is open cost themselves: one reader is told of them, once.
func TestP03DamageWhileItIsOpen(t *testing.T) {
	t.Parallel()
	for name, at := range map[string]int{"in the middle": 3, "at the end": 9} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := open(t, t.TempDir(), Options{})
			var ends []int64
			for i := range 10 {
				add(t, l, fmt.Sprint("record-", i))
				ends = append(ends, l.Stats().Bytes)
			}
			zero(t, segmentPath(l.Dir(), 1), ends[at]-3, 2)
			add(t, l, "record-10")
			found, damages := map[string]bool{}, []Damage(nil)
			for range 2 {
				r := l.Reader()
				clear(found)
				for {
					records, err := r.Read(4)
					var d Damage
					if errors.As(err, &d) {
						damages = append(damages, d)
						continue
					}
					if err != nil {
						t.Fatal(err)
					}
					if len(records) == 0 {
						break
					}
					for _, one := range records {
						found[string(one.Data)] = true
					}
				}
				if r.Next() != 12 {
					t.Errorf("it is at %d", r.Next())
				}
				r.Close()
				if len(found) != 10 || found[fmt.Sprint("record-", at)] {
					t.Errorf("found %v", found)
				}
			}
			if len(damages) != 1 || damages[0].Record != uint64(at+1) || damages[0].Records != 1 {
				t.Fatalf("damages %v", damages)
			}
			copies, _ := filepath.Glob(filepath.Join(l.Dir(), "*"+damagedSuffix))
			if len(copies) != 1 {
				t.Errorf("copies %v", copies)
			}
			l = reopen(t, l, Options{}) // whoever comes next may be the first who can tell it
			if d := l.Damages(); len(d) != 1 || d[0].Record != damages[0].Record {
				t.Errorf("damages when it is opened again: %v", d)
			}
		})
	}
}

// A file that somebody has removed takes no more records, and what it had is told.
func TestP03RemovedSegment(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), Options{})
	add(t, l, "a", "b")
	if err := os.Remove(segmentPath(l.Dir(), 1)); err != nil {
		t.Fatal(err)
	}
	if number := add(t, l, "c"); number != 3 {
		t.Errorf("number %d, want 3", number)
	}
	r := l.Reader()
	defer r.Close()
	var d Damage
	if _, err := r.Read(10); !errors.As(err, &d) || d.Record != 1 || d.Records != 2 {
		t.Errorf("got %v", err)
	}
	if records, err := r.Read(10); err != nil || len(records) != 1 || string(records[0].Data) != "c" {
		t.Errorf("got %v, %v", records, err)
	}
	for range 2 { // before anything stands in it
		if err := l.Drained(3); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(l.last().path); err != nil {
			t.Fatal(err)
		}
		add(t, l, "d")
		if s := l.Stats(); s.Segments != 1 || s.Records != 1 {
			t.Errorf("stats %+v", s)
		}
		if err := l.Drained(10); err != nil {
			t.Fatal(err)
		}
	}
}

// Where the folder is gone nothing is accepted, until it is there again.
func TestP03RemovedFolder(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), Options{})
	add(t, l, "a")
	if err := os.RemoveAll(l.Dir()); err != nil {
		t.Fatal(err)
	}
	if _, err := put(l, "b"); !errors.Is(err, ErrDisk) {
		t.Errorf("got %v, want ErrDisk", err)
	}
	if err := l.Heal(); err == nil || l.Stats().Err == nil {
		t.Errorf("healed: %v, %+v", err, l.Stats())
	}
	if err := os.Mkdir(l.Dir(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := l.Heal(); err != nil || l.Stats().Err != nil {
		t.Errorf("not healed: %v, %+v", err, l.Stats())
	}
	add(t, l, "b")
}

// A disk that takes writes again is found out without an append, and what the write has left that failed is cut off.
func TestP09DiskHeals(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), Options{})
	add(t, l, "a")
	l.failed(errors.New("no space left on device")) // the keeper has nothing to do now
	if _, err := l.active.WriteAt(appendRecord(nil, 2, []byte("refused")), l.last().size); err != nil {
		t.Fatal(err)
	}
	if err := l.Heal(); err != nil || l.Stats().Err != nil {
		t.Fatal(err, l.Stats())
	}
	l = reopen(t, l, Options{})
	if found := all(t, l); len(found) != 1 || len(l.Damages()) > 0 {
		t.Errorf("found %v, damages %v", found, l.Damages())
	}
}

// Segments that are gone when a spool is opened are told, and so are those whose file was cut.
func TestP03GapsAreTold(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), Options{Segment: 100})
	for i := range 30 {
		add(t, l, fmt.Sprint("record-", i))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob(filepath.Join(l.Dir(), "*"+segmentSuffix))
	if err != nil || len(paths) < 6 {
		t.Fatal(paths, err)
	}
	if err := os.Remove(paths[2]); err != nil {
		t.Fatal(err)
	}
	l = reopen(t, l, Options{})
	lost := uint64(0)
	for _, d := range l.Damages() {
		lost += d.Records
	}
	if found := all(t, l); lost == 0 || len(found)+int(lost) != 30 {
		t.Errorf("%d records are there, damages %v", len(found), l.Damages())
	}
}

// A file that is cut while it is open costs what stood behind, and stops nobody.
func TestP03CutSegment(t *testing.T) {
	t.Parallel()
	for _, left := range []int64{0, 20, 100} {
		l := open(t, t.TempDir(), Options{Segment: 200})
		for i := range 30 {
			add(t, l, fmt.Sprint("record-", i))
		}
		if err := os.Truncate(segmentPath(l.Dir(), 1), left); err != nil {
			t.Fatal(err)
		}
		r := l.Reader()
		defer r.Close()
		found, lost := 0, uint64(0)
		for {
			records, err := r.Read(7)
			var d Damage
			if errors.As(err, &d) {
				lost += d.Records
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if found += len(records); len(records) == 0 {
				break
			}
		}
		if lost == 0 || found+int(lost) != 30 {
			t.Errorf("cut to %d: %d found, %d lost", left, found, lost)
		}
	}
}

// A folder that was removed and that another process has taken since is not written to, and its segments are not taken for one's own.
func TestP03FolderOfAnotherProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	one := open(t, dir, Options{})
	add(t, one, "a")
	if err := os.RemoveAll(one.Dir()); err != nil {
		t.Fatal(err)
	}
	two := open(t, dir, Options{})
	add(t, two, "b", "c")
	r := one.Reader()
	defer r.Close()
	var d Damage
	if records, err := r.Read(10); !errors.As(err, &d) || d.Record != 1 || d.Records != 1 {
		t.Errorf("one reads %v, %v", records, err)
	}
	if err := two.Drained(2); err != nil { // no file of it has the name of one of one's now
		t.Fatal(err)
	}
	add(t, two, "d")
	for range 2 {
		if _, err := put(one, "x"); !errors.Is(err, ErrDisk) {
			t.Errorf("it is written to: %v", err)
		}
		if err := one.Heal(); err == nil {
			t.Error("it is healed")
		}
	}
	if found := all(t, two); len(found) != 1 || found[3] != "d" {
		t.Errorf("two has %v", found)
	}
	if err := two.Close(); err != nil {
		t.Fatal(err)
	}
	add(t, one, "x")
	if err := one.Close(); err != nil {
		t.Fatal(err)
	}
	if found := named(t, open(t, dir, Options{})); len(found) != 2 {
		t.Errorf("both have left %v", found)
	}
}

// What was removed is told at once, and once.
func TestP03RemovedSegmentIsToldAtOnce(t *testing.T) {
	t.Parallel()
	told := make(chan Damage, 10)
	l := open(t, t.TempDir(), Options{Damaged: func(d Damage) { told <- d }})
	add(t, l, "a", "b")
	if err := os.Remove(segmentPath(l.Dir(), 1)); err != nil {
		t.Fatal(err)
	}
	add(t, l, "c")
	select {
	case d := <-told: // before the append was answered
		if d.Record != 1 || d.Records != 2 {
			t.Errorf("told %v", d)
		}
	default:
		t.Error("nobody is told")
	}
	for range 2 {
		if found := all(t, l); len(found) != 1 || found[3] != "c" {
			t.Errorf("found %v", found)
		}
	}
}

// A disk that is full of what can be drained does not keep a process from starting.
func TestP09StartOnAFullDisk(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), Options{})
	add(t, l, "a", "b")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	full := errors.New("no space left on device")
	l = &Log{slot: l.slot, id: "x", requests: make(chan request, 256), closing: make(chan struct{}), ended: make(chan struct{}),
		options: Options{Segment: 1 << 20}.withDefaults(), create: func(string, string, uint64) (*segment, *os.File, error) { return nil, nil, full }}
	if err := l.load(); err != nil || !errors.Is(l.Stats().Err, full) {
		t.Fatal(err, l.Stats())
	}
	if found := all(t, l); len(found) != 2 {
		t.Errorf("found %v", found)
	}
	l.create = createSegment
	if err := l.drop(2); err != nil || l.Stats().Err != nil || l.active == nil {
		t.Errorf("%v, %+v", err, l.Stats())
	}
	_ = l.active.Close()
}
