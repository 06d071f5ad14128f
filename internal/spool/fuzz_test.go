//go:build unix

package spool

import (
	"crypto/rand"
	"os"
	"testing"
)

// Whatever stands in a segment: the spool opens, every record that it returns is whole, and what it appends then is there when it is opened again.
func FuzzSegment(f *testing.F) {
	whole := appendHeader(nil, rand.Text(), 1)
	for i, data := range []string{"one", "", "three"} {
		whole = appendRecord(whole, uint64(i+1), []byte(data))
	}
	f.Add(whole, false)
	f.Add(appendRecord(appendSlotHeader(nil, 1), 1, []byte("one")), false)
	f.Add(whole[:len(whole)-2], false)
	f.Add(whole[:len(whole)-2], true)
	f.Add(whole[:5], true)
	f.Add([]byte{}, false)
	f.Fuzz(func(t *testing.T, content []byte, another bool) {
		dir := t.TempDir()
		folder := slotPath(dir, 0)
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := (&slot{dir: folder}).write(owner{Server: server.Address, ID: "x"}); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(segmentPath(folder, 1), content, 0o600); err != nil {
			t.Fatal(err)
		}
		if another {
			if err := os.WriteFile(segmentPath(folder, 1<<40), appendRecord(appendHeader(nil, rand.Text(), 1<<40), 1<<40, []byte("last")), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if h, parsed := parseHeader(content); parsed && h.first >= 1<<39 {
			return // segments whose names and numbers disagree so much are nobody's work but a fuzzer's
		}
		l := open(t, dir, Options{})
		before := all(t, l)
		if another && before[1<<40] != "last" {
			t.Errorf("the whole segment is lost: %v", before)
		}
		number := add(t, l, "next")
		if _, taken := before[number]; taken {
			t.Errorf("number %d comes twice", number)
		}
		l = reopen(t, l, Options{})
		after := all(t, l)
		if len(after) != len(before)+1 || after[number] != "next" {
			t.Errorf("%d records and one more became %d", len(before), len(after))
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
