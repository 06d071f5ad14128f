//go:build unix

package spool

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rishi-platform/millrace/internal/redistest"
)

var server = Server{Address: "redis-1"}

// childVariable makes the test binary a process that appends to the spool in that folder, and prints the number of each record that was accepted.
const childVariable = "MILLRACE_SPOOL_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childVariable); dir != "" {
		l, err := Open(dir, server, Options{Segment: 4 << 10})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		for i := 0; ; i++ {
			number, err := put(l, record(i))
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			fmt.Println(number)
		}
	}
	os.Exit(redistest.Run(m))
}

// record is the i-th record of a test, of a length that varies.
func record(i int) string { return fmt.Sprint("record-", i, strings.Repeat("x", i%97)) }

func open(t testing.TB, dir string, o Options) *Log {
	t.Helper()
	l, err := Open(dir, server, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// reopen opens a spool again that this process has given up.
func reopen(t testing.TB, l *Log, o Options) *Log {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return open(t, filepath.Dir(l.Dir()), o)
}

// put appends and waits.
func put(l *Log, records ...string) (first uint64, err error) {
	data := make([][]byte, len(records))
	for i, r := range records {
		data[i] = []byte(r)
	}
	done := make(chan struct{})
	l.Append(data, func(f uint64, e error) { first, err = f, e; close(done) })
	<-done
	return first, err
}

func add(t testing.TB, l *Log, records ...string) uint64 {
	t.Helper()
	number, err := put(l, records...)
	if err != nil {
		t.Fatalf("append: %v", err)
	}
	return number
}

// all returns what has not arrived, by number.
func all(t testing.TB, l *Log) map[uint64]string {
	t.Helper()
	r := l.Reader()
	defer r.Close()
	found, last := map[uint64]string{}, uint64(0)
	for {
		records, err := r.Read(7)
		if err != nil {
			t.Fatalf("read: %v", err)
		}
		if len(records) == 0 {
			return found
		}
		for _, one := range records {
			if one.Number <= last {
				t.Fatalf("record %d comes behind %d", one.Number, last)
			}
			last = one.Number
			found[one.Number] = string(one.Data)
		}
	}
}

func TestRecordsAreKept(t *testing.T) {
	t.Parallel()
	o := Options{Segment: 500} // many segments
	l := open(t, t.TempDir(), o)
	want := map[uint64]string{}
	for i := range 100 {
		if number := add(t, l, record(2*i), record(2*i+1)); number != uint64(2*i+1) {
			t.Fatalf("number %d, want %d", number, 2*i+1)
		}
		want[uint64(2*i+1)], want[uint64(2*i+2)] = record(2*i), record(2*i+1)
	}
	id := l.ID()
	for range 2 {
		if diff := cmp.Diff(want, all(t, l)); diff != "" {
			t.Fatalf("-want +got:\n%s", diff)
		}
		if s := l.Stats(); s.Records != 200 || s.First != 1 || s.Next != 201 || s.Segments < 10 {
			t.Errorf("stats %+v", s)
		}
		l = reopen(t, l, o)
		if l.ID() == id || len(l.Damages()) > 0 {
			t.Errorf("ID %s again, or damages %v", l.ID(), l.Damages())
		}
	}
	if number := add(t, l, "more"); number != 201 {
		t.Errorf("number %d, want 201", number)
	}
}

func TestARecordMayBeEmptyOrLarge(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), Options{})
	large := strings.Repeat("y", 3<<20)
	add(t, l, "", large, "")
	if diff := cmp.Diff(map[uint64]string{1: "", 2: large, 3: ""}, all(t, l)); diff != "" {
		t.Error("it is not what was appended")
	}
	if _, err := put(l, string(make([]byte, MaxRecord+1))); err == nil {
		t.Error("a record that is too large was taken")
	}
	if _, err := put(l); err == nil {
		t.Error("nothing was taken")
	}
}

// Many callers share a sync, each gets its own number, and the records of one stand in the order of its calls.
func TestManyCallers(t *testing.T) {
	t.Parallel()
	const callers, each = 32, 50
	l := open(t, t.TempDir(), Options{Segment: 2000})
	numbers := make([][]uint64, callers)
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				number, err := put(l, fmt.Sprintf("%d-%d", c, i))
				if err != nil {
					t.Error(err)
				}
				numbers[c] = append(numbers[c], number)
			}
		})
	}
	wg.Wait()
	found := all(t, l)
	if len(found) != callers*each {
		t.Errorf("%d records, want %d", len(found), callers*each)
	}
	for c := range callers {
		for i, number := range numbers[c] {
			if found[number] != fmt.Sprintf("%d-%d", c, i) || i > 0 && number <= numbers[c][i-1] {
				t.Fatalf("record %d is %q, want %d-%d behind %d", number, found[number], c, i, numbers[c][max(0, i-1)])
			}
		}
	}
}

func TestRoomIsGivenBack(t *testing.T) {
	t.Parallel()
	o := Options{Segment: 300}
	l := open(t, t.TempDir(), o)
	for i := range 60 {
		add(t, l, record(i))
	}
	before := l.Stats()
	if err := l.Drained(30); err != nil {
		t.Fatal(err)
	}
	half := l.Stats()
	if half.Records != 30 || half.First != 31 || half.Segments >= before.Segments || half.Bytes >= before.Bytes {
		t.Errorf("stats %+v, before %+v", half, before)
	}
	if found := all(t, l); len(found) != 30 || found[31] != record(30) {
		t.Errorf("%d records, want those from 31 on", len(found))
	}
	if err := l.Drained(1_000_000); err != nil {
		t.Fatal(err)
	}
	if s := l.Stats(); s.Records != 0 || s.Segments != 1 || s.Bytes != int64(headerLength) || s.Next != 61 {
		t.Errorf("stats of an empty one %+v", s)
	}
	// No number comes twice, also after a restart: the server knows them.
	l = reopen(t, l, o)
	if number := add(t, l, "next"); number != 61 {
		t.Errorf("number %d, want 61", number)
	}
}

func TestFullRefusesAndLosesNothing(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), Options{Max: 2000, Segment: 500})
	kept := 0
	for {
		_, err := put(l, record(kept))
		if errors.Is(err, ErrFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		kept++
	}
	if s := l.Stats(); s.Bytes > 2000 || s.Bytes < 1800 || kept < 10 {
		t.Errorf("%d records, stats %+v", kept, s)
	}
	if found := all(t, l); len(found) != kept {
		t.Errorf("%d records, want %d", len(found), kept)
	}
	if err := l.Drained(uint64(kept / 2)); err != nil {
		t.Fatal(err)
	}
	add(t, l, "again")
}

// A disk that refuses: nothing is accepted and nothing that was is lost; when it takes writes again, so does the spool.
func TestDiskThatRefuses(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), Options{})
	add(t, l, "before")
	good := l.active // the keeper has nothing to do now, and is asked by a channel then
	readOnly, err := os.Open(good.Name())
	if err != nil {
		t.Fatal(err)
	}
	l.active = readOnly
	for range 2 {
		if _, err := put(l, "refused"); !errors.Is(err, ErrDisk) {
			t.Errorf("got %v, want ErrDisk", err)
		}
	}
	if s := l.Stats(); s.Err == nil || s.Records != 1 {
		t.Errorf("stats %+v, want the error and one record", s)
	}
	l.active = good
	_ = readOnly.Close()
	// What a write that failed half-way has left is cut off, or it would be found by the next process.
	if _, err := good.WriteAt(appendRecord(nil, 2, []byte("refused")), l.last().size); err != nil {
		t.Fatal(err)
	}
	if number := add(t, l, "x"); number != 2 {
		t.Errorf("number %d, want 2", number)
	}
	want := map[uint64]string{1: "before", 2: "x"}
	if diff := cmp.Diff(want, all(t, l)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if l = reopen(t, l, Options{}); len(l.Damages()) > 0 || !cmp.Equal(want, all(t, l)) || l.Stats().Err != nil {
		t.Errorf("damages %v, records %v", l.Damages(), all(t, l))
	}
}

// The last two records cut at every byte: it opens, keeps every whole record, and says what it dropped.
func TestCutAtEveryByte(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), Options{})
	add(t, l, "one", "two")
	whole := l.Stats().Bytes
	add(t, l, "three")
	withThree := l.Stats().Bytes
	add(t, l, "four")
	end := l.Stats().Bytes
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(segmentPath(l.Dir(), 1))
	if err != nil {
		t.Fatal(err)
	}
	for cut := whole; cut <= end; cut++ {
		removeSegments(t, l.Dir())
		if err := os.WriteFile(segmentPath(l.Dir(), 1), content[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		want := map[uint64]string{1: "one", 2: "two"}
		if cut >= withThree {
			want[3] = "three"
		}
		if cut == end {
			want[4] = "four"
		}
		l := open(t, filepath.Dir(l.Dir()), Options{})
		if diff := cmp.Diff(want, all(t, l)); diff != "" {
			t.Fatalf("cut at %d: -want +got:\n%s", cut, diff)
		}
		clean := cut == whole || cut == withThree || cut == end
		if d := l.Damages(); clean && len(d) > 0 || !clean && (len(d) != 1 || !d[0].Torn || d[0].Record != uint64(len(want)+1)) {
			t.Errorf("cut at %d: damages %v", cut, d)
		}
		if number := add(t, l, "next"); number != uint64(len(want)+1) {
			t.Errorf("cut at %d: the next one has number %d", cut, number)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A byte that is wrong anywhere costs one record, whatever it is; that is named, and a copy of what can't be read at the end of a segment is kept.
func TestEveryByteWrong(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	l := open(t, base, Options{Segment: 60})
	for i := range 6 {
		add(t, l, fmt.Sprint("record-", i))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(segmentPath(l.Dir(), 1))
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(l.Dir(), "*"))
	if err != nil || len(files) < 4 {
		t.Fatal(files, err)
	}
	for at := headerLength; at < len(first); at++ {
		dir := filepath.Join(t.TempDir(), "spool-0")
		if err := os.CopyFS(dir, os.DirFS(l.Dir())); err != nil {
			t.Fatal(err)
		}
		wrong := append([]byte(nil), first...)
		wrong[at] ^= 0x41
		if err := os.WriteFile(segmentPath(dir, 1), wrong, 0o600); err != nil {
			t.Fatal(err)
		}
		l := open(t, filepath.Dir(dir), Options{})
		found := all(t, l)
		lost := 6 - len(found)
		d := l.Damages()
		if len(d) != 1 || d[0].Torn || lost != 1 {
			t.Fatalf("byte %d: %d lost, damages %v", at, lost, d)
		}
		for number, data := range found {
			if want := fmt.Sprint("record-", number-1); data != want {
				t.Fatalf("byte %d: record %d is %q, want %q", at, number, data, want)
			}
		}
		copies, _ := filepath.Glob(fmt.Sprintf("%s.*.%d.damaged", segmentPath(dir, 1), d[0].Offset))
		if len(copies) != 1 {
			t.Fatalf("byte %d: copies %v", at, copies)
		}
		copied, err := os.ReadFile(copies[0])
		if err != nil || !bytes.Equal(copied, wrong[d[0].Offset:d[0].Offset+d[0].Bytes]) {
			t.Errorf("byte %d: copy of what can't be read: %q, %v, damage %v", at, copied, err, d[0])
		}
		add(t, l, "next")
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// So it does in the segment that is appended to: only what is damaged at its end is taken for what a crash left half-written. Two records in a row are
// passed over as well.
func TestEveryByteWrongInTheLastSegment(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), Options{})
	var ends []int64
	for i := range 6 {
		add(t, l, fmt.Sprint("record-", i))
		ends = append(ends, l.Stats().Bytes)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(segmentPath(l.Dir(), 1))
	if err != nil {
		t.Fatal(err)
	}
	check := func(at int, lost uint64, torn bool, wrong ...int) {
		t.Helper()
		removeSegments(t, l.Dir())
		damaged := append([]byte(nil), content...)
		for _, i := range wrong {
			damaged[i] ^= 0x41
		}
		if err := os.WriteFile(segmentPath(l.Dir(), 1), damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		l := open(t, filepath.Dir(l.Dir()), Options{})
		found := all(t, l)
		d := l.Damages()
		if len(d) != 1 || d[0].Torn != torn || !torn && !d[0].Rest && d[0].Records != lost {
			t.Fatalf("byte %d: damages %v", at, d)
		}
		number := add(t, l, "next")
		if err := l.Drained(number); err != nil || l.Stats().Records != 0 {
			t.Fatalf("byte %d: drained, and %d records are left: %v", at, l.Stats().Records, err)
		}
		if uint64(len(found)) != 6-lost {
			t.Fatalf("byte %d: found %v", at, found)
		}
		for number, data := range found {
			if want := fmt.Sprint("record-", number-1); data != want {
				t.Fatalf("byte %d: record %d is %q, want %q", at, number, data, want)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for at := headerLength; at < len(content); at++ {
		// Only a length that is too large looks like a record that a crash cut.
		check(at, 1, int64(at) >= ends[4] && int64(at) < ends[4]+3, at)
	}
	for at := headerLength; int64(at) < ends[0]; at++ {
		check(at, 2, false, at, at+int(ends[1]-ends[0]))
	}
}

// A process that is killed while it appends has lost nothing that it was told was kept, and whoever comes next adopts it.
func TestKilledProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	accepted := map[uint64]int{}
	for round := range 3 {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), childVariable+"="+dir)
		child.SysProcAttr = redistest.DieWithParent()
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for i := 0; lines.Scan(); i++ {
			number, err := strconv.ParseUint(lines.Text(), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			if _, twice := accepted[number]; twice {
				t.Fatalf("number %d came twice", number)
			}
			accepted[number] = i
			if i == 100+37*round {
				_ = child.Process.Kill() // and what it still says is read
			}
		}
		_ = child.Wait()
	}
	l := open(t, dir, Options{})
	if filepath.Base(l.Dir()) != "spool-0" {
		t.Errorf("opened %s, want the dead one's", l.Dir())
	}
	found := all(t, l)
	for number, i := range accepted {
		if found[number] != record(i) {
			t.Errorf("record %d is %q, want %q", number, found[number], record(i))
		}
	}
	if len(found) > len(accepted)+3 { // the last one of each may have been kept without having been told
		t.Errorf("%d records, %d were accepted", len(found), len(accepted))
	}
	for _, d := range l.Damages() {
		t.Log(d)
	}
}

func TestSlots(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, b := open(t, dir, Options{}), open(t, dir, Options{})
	if filepath.Base(a.Dir()) != "spool-0" || filepath.Base(b.Dir()) != "spool-1" || a.ID() == b.ID() {
		t.Errorf("%s %s and %s %s", a.Dir(), a.ID(), b.Dir(), b.ID())
	}
	add(t, a, "of a")
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	other, err := Open(dir, Server{Address: "redis-2"}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Close() })
	if filepath.Base(other.Dir()) != "spool-2" {
		t.Errorf("a process of another server has %s", other.Dir())
	}
	adopted := open(t, dir, Options{})
	if adopted.Dir() != a.Dir() || len(all(t, adopted)) != 1 {
		t.Errorf("adopted %s with %v, want a's", adopted.Dir(), all(t, adopted))
	}
}

func TestClosedRefuses(t *testing.T) {
	t.Parallel()
	for range 50 {
		l := open(t, t.TempDir(), Options{})
		var wg sync.WaitGroup
		kept := make([]error, 8)
		for i := range kept {
			wg.Go(func() { _, kept[i] = put(l, "x") })
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		n := 0
		for _, err := range kept {
			switch {
			case err == nil:
				n++
			case !errors.Is(err, ErrClosed):
				t.Error(err)
			}
		}
		l = open(t, filepath.Dir(l.Dir()), Options{})
		if found := len(all(t, l)); found < n {
			t.Fatalf("%d were accepted, %d are there", n, found)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A disk that is full of what has arrived at the server: the empty segment that takes its place finds room, and the spool works again.
func TestFullDiskIsLeftBehind(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), Options{})
	add(t, l, "a", "b")
	full := errors.New("no space left on device")
	l.failed(full)
	l.create = func(dir, id string, first uint64) (*segment, *os.File, error) {
		if _, err := os.Stat(l.reservePath()); err == nil {
			return nil, nil, full
		}
		return createSegment(dir, id, first)
	}
	if err := l.Drained(2); err != nil {
		t.Fatal(err)
	}
	if s := l.Stats(); s.Records != 0 || s.Err != nil || s.Segments != 1 || s.Bytes != int64(headerLength) {
		t.Errorf("stats %+v", s)
	}
	if info, err := os.Stat(l.reservePath()); err != nil || info.Size() != reserveLength {
		t.Errorf("the reserve is not there again: %v", err)
	}
	if number := add(t, l, "c"); number != 3 {
		t.Errorf("number %d, want 3", number)
	}
}

// A block of a disk that is gone takes many records with it; those behind it are found.
func TestDamageOfABlock(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), Options{})
	for i := range 200 {
		add(t, l, fmt.Sprintf("record %032d", i))
	}
	path := segmentPath(l.Dir(), 1)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	zero(t, path, 1000, 4096)
	l = reopen(t, l, Options{})
	d := l.Damages()
	if found := all(t, l); len(d) != 1 || d[0].Rest || len(found)+int(d[0].Records) != 200 || found[200] == "" {
		t.Errorf("found %d records, damages %v", len(found), d)
	}
}

// Every damage costs its own record, however many there are.
func TestManyDamages(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), Options{})
	var ends []int64
	for i := range 200 {
		add(t, l, fmt.Sprintf("record %032d", i))
		ends = append(ends, l.Stats().Bytes)
	}
	path := segmentPath(l.Dir(), 1)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for i := 1; i < 200; i += 2 {
		zero(t, path, ends[i-1]+10, 4)
	}
	l = reopen(t, l, Options{})
	if found := all(t, l); len(found) != 100 || len(l.Damages()) != 100 {
		t.Errorf("found %d records, %d damages", len(found), len(l.Damages()))
	}
}

// A segment of which nothing can be read is the last one of a dead process: whoever adopts the slot is told, and no number comes twice.
func TestDamageIsAdopted(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	l := open(t, base, Options{Segment: 60})
	for i := range 6 {
		add(t, l, fmt.Sprint("record-", i))
	}
	paths, err := filepath.Glob(filepath.Join(l.Dir(), "*"+segmentSuffix))
	if err := errors.Join(err, l.Close()); err != nil {
		t.Fatal(err)
	}
	zero(t, paths[len(paths)-1], 0, 4)
	for _, path := range paths[:len(paths)-2] {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	adopted, err := Adopt(l.Dir(), server, Options{})
	if err != nil || adopted == nil || len(adopted.Damages()) != 1 || !adopted.Damages()[0].Rest {
		t.Fatalf("%v, %v", adopted, err)
	}
	add(t, adopted, "next")
	if err := adopted.Close(); err != nil {
		t.Fatal(err)
	}

	paths, _ = filepath.Glob(filepath.Join(l.Dir(), "*"+segmentSuffix))
	for _, path := range paths {
		zero(t, path, 0, 4)
	}
	if adopted, err = Adopt(l.Dir(), server, Options{}); err != nil || adopted == nil || len(adopted.Damages()) != len(paths) {
		t.Fatalf("nothing but damage: %v, %v", adopted, err)
	}
	if err := adopted.Close(); err != nil {
		t.Fatal(err)
	}
	if adopted, err = Adopt(l.Dir(), server, Options{}); err != nil || adopted != nil {
		t.Errorf("adopted once more: %v, %v", adopted, err)
	}
}

// removeSegments leaves a slot without segments.
func removeSegments(t *testing.T, dir string) {
	t.Helper()
	paths, _ := filepath.Glob(filepath.Join(dir, "*"))
	for _, path := range paths {
		if strings.Contains(path, segmentSuffix) { // and copies of what was damaged
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// zero overwrites a part of a file.
func zero(t *testing.T, path string, at int64, bytes int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(make([]byte, bytes), at)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// badBlocks makes the disk refuse to read some bytes of the files whose names end so.
func badBlocks(from, to int64) readAt {
	return func(f *os.File, b []byte, at int64) (int, error) {
		if strings.HasSuffix(f.Name(), segmentSuffix) && at < to && at+int64(len(b)) > from {
			n, _ := f.ReadAt(b[:max(0, from-at)], at)
			return n, &os.PathError{Op: "read", Path: f.Name(), Err: syscall.EIO}
		}
		return f.ReadAt(b, at)
	}
}

// What the disk can't read is an error for a while, and is passed over and told then, with what is whole around it.
func TestP03UnreadableBlockIsPassedOver(t *testing.T) {
	t.Parallel()
	const n, size = 40, 1000
	o := Options{readAt: badBlocks(9*readBlock/2, 9*readBlock/2+1), passOver: time.Hour}
	l := open(t, t.TempDir(), o)
	for range n {
		add(t, l, strings.Repeat("x", size))
	}
	r := l.Reader()
	defer r.Close()
	for range 2 {
		if records, err := r.Read(n); !errors.Is(err, syscall.EIO) {
			t.Errorf("%d records, %v", len(records), err)
		}
	}
	l.options.passOver = time.Nanosecond
	found, damage := 0, Damage{}
	for {
		records, err := r.Read(n)
		if err != nil && !errors.As(err, &damage) {
			t.Fatal(err)
		}
		if len(records) == 0 && err == nil {
			break
		}
		found += len(records)
	}
	if found+int(damage.Records) != n || damage.Records < 2 || damage.Records > 6 {
		t.Errorf("%d records, and %v", found, damage)
	}
	if copies, _ := filepath.Glob(filepath.Join(l.Dir(), "*"+damagedSuffix)); len(copies) != 1 {
		t.Errorf("copies %v", copies)
	}
}

// A slot that the disk can't read keeps no process from starting. Whoever adopts it is told why, or passes over what can't be read.
func TestP03UnreadableSlotIsLeftToAdopt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir, Options{})
	for range 40 {
		add(t, l, strings.Repeat("x", 1000))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	bad := Options{readAt: badBlocks(9*readBlock/2, 9*readBlock/2+1)}
	next := open(t, dir, bad)
	if next.Dir() == l.Dir() {
		t.Errorf("it has %s", next.Dir())
	}
	if adopted, err := Adopt(l.Dir(), server, bad); !errors.Is(err, syscall.EIO) {
		t.Fatalf("%v, %v", adopted, err)
	}
	bad.PassOver = true
	adopted, err := Adopt(l.Dir(), server, bad)
	if err != nil || adopted == nil || len(adopted.Damages()) != 1 {
		t.Fatalf("%v, %v", adopted, err)
	}
	if n := adopted.Stats().Records; n != 40 {
		t.Errorf("%d records, damaged ones included", n)
	}
	if found := all(t, adopted); len(found)+int(adopted.Damages()[0].Records) != 40 || len(found) < 34 {
		t.Errorf("%d records can be read, and %v", len(found), adopted.Damages())
	}
	if err := adopted.Close(); err != nil {
		t.Fatal(err)
	}
}

// What is read in small pages is read from the disk once.
func TestP10SmallPagesReadOnce(t *testing.T) {
	t.Parallel()
	var read int64
	l := open(t, t.TempDir(), Options{Segment: 1 << 20, readAt: func(f *os.File, b []byte, at int64) (int, error) {
		n, err := f.ReadAt(b, at)
		read += int64(n)
		return n, err
	}})
	records := make([]string, 1000)
	for i := range records {
		records[i] = strings.Repeat("x", 3000)
	}
	add(t, l, records...)
	add(t, l, records...) // in another segment
	r := l.Reader()
	defer r.Close()
	found := 0
	for {
		page, err := r.Read(7)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		found += len(page)
	}
	if bytes := l.Stats().Bytes; found != 2000 || read > bytes*11/10 {
		t.Errorf("%d records, %d bytes read of %d", found, read, bytes)
	}
}

// What the disk can't read at one time it may read at another: nothing of it is cut off or removed.
func TestP03UnreadableIsNotChanged(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string][2]int64{"the header": {0, 1}, "the end": {int64(headerLength), 1 << 30}} {
		dir := t.TempDir()
		l := open(t, dir, Options{})
		add(t, l, "a", "b", "c")
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		path := segmentPath(l.Dir(), 1)
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		adopted, err := Adopt(l.Dir(), server, Options{PassOver: true, readAt: badBlocks(bad[0], bad[1])})
		if err != nil || adopted == nil || len(adopted.Damages()) != 1 || adopted.Damages()[0].Torn {
			t.Fatalf("%s: %v, %v", name, adopted, err)
		}
		if err := adopted.Close(); err != nil {
			t.Fatal(err)
		}
		if after, err := os.ReadFile(path + damagedSuffix); err != nil || !bytes.Equal(after, before) {
			t.Errorf("%s: the segment has %d bytes, %v; had %d", name, len(after), err, len(before))
		}
	}
}

// A slot in which nothing stands, and which can't be read, keeps nobody from starting.
func TestP03UnreadableEmptySlot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir, Options{})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if next := open(t, dir, Options{readAt: badBlocks(0, 1)}); next.Dir() == l.Dir() {
		t.Errorf("it has %s", next.Dir())
	}
}

// The disk can't read a block for a moment; when it can't again much later, that is not for good either. Only what stands in the block is lost in the end.
func TestP03OnlyTheBlockIsLost(t *testing.T) {
	t.Parallel()
	const n, size = 100, 300
	broken := true
	block := badBlocks(2*readBlock, 3*readBlock)
	l := open(t, t.TempDir(), Options{passOver: time.Hour, readAt: func(f *os.File, b []byte, at int64) (int, error) {
		if broken {
			return block(f, b, at)
		}
		return f.ReadAt(b, at)
	}})
	for range n {
		add(t, l, strings.Repeat("x", size))
	}
	r := l.Reader()
	defer r.Close()
	if _, err := r.Read(n); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	broken = false
	if records, err := r.Read(1); len(records) != 1 || err != nil || r.failed != (failure{}) {
		t.Fatalf("%d records, %v; failed %+v", len(records), err, r.failed)
	}
	broken, l.options.passOver = true, time.Nanosecond
	r.Seek(1)
	found, damage := 0, Damage{}
	for {
		records, err := r.Read(n)
		if err != nil && !errors.As(err, &damage) {
			t.Fatal(err)
		}
		if len(records) == 0 && err == nil {
			break
		}
		found += len(records)
	}
	if most := readBlock/size + 2; found+int(damage.Records) != n || int(damage.Records) > most {
		t.Errorf("%d records, and %v; want at most %d lost", found, damage, most)
	}
}
