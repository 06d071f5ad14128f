package redisstream

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReplyOfStreams(t *testing.T) {
	t.Parallel()
	const text = "*2\r\n" +
		"*2\r\n$7\r\nbooking\r\n*2\r\n" +
		"*2\r\n$3\r\n5-0\r\n*4\r\n$1\r\na\r\n$2\r\n\r\n\r\n$1\r\na\r\n$0\r\n\r\n" + // a name twice, a value that is a line end, an empty one
		"*2\r\n$3\r\n6-1\r\n*-1\r\n" + // pending, but no longer there
		"*2\r\n$7\r\ninvoice\r\n*0\r\n"
	type row struct {
		Key    string
		ID     ID
		Fields []string
		Gone   bool
	}
	var got []row
	if err := newReply(text).streams(func(key string, e Entry, gone bool) { got = append(got, row{key, e.ID, e.Fields(), gone}) }); err != nil {
		t.Fatal(err)
	}
	want := []row{
		{"booking", ID{5, 0}, []string{"a", "\r\n", "a", ""}, false},
		{"booking", ID{6, 1}, nil, true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// One element that can't be read keeps back no other, wherever it stands. What stands for it can be
// settled, where its ID is known.
func TestG19OddEntryKeepsNoOtherBack(t *testing.T) {
	t.Parallel()
	const (
		first = "*2\r\n$3\r\n5-0\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n"
		last  = "*2\r\n$3\r\n9-0\r\n*2\r\n$1\r\nc\r\n$1\r\nd\r\n"
	)
	for _, test := range []struct {
		name, odd string
		unread    string // what stands for it; empty: it is passed over, and said
	}{
		{"a list for a value", "*2\r\n$3\r\n7-1\r\n*2\r\n$1\r\na\r\n*1\r\n$1\r\nb\r\n", "7-1"},
		{"an error for a value", "*2\r\n$3\r\n7-1\r\n*2\r\n$1\r\na\r\n-ERR b\r\n", "7-1"},
		{"nil for a value", "*2\r\n$3\r\n7-1\r\n*2\r\n$1\r\na\r\n$-1\r\n", "7-1"},
		{"a text for the fields", "*2\r\n$3\r\n7-1\r\n$1\r\na\r\n", "7-1"},
		{"nil for an entry", "*-1\r\n", ""},
		{"no ID", "*2\r\n$1\r\nx\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n", ""},
		{"too many parts", "*3\r\n$3\r\n7-1\r\n*0\r\n:1\r\n", ""},
	} {
		text := "*2\r\n*2\r\n$7\r\nbooking\r\n*3\r\n" + first + test.odd + last + "*2\r\n$7\r\ninvoice\r\n*1\r\n" + last
		read, err := delivered(text, map[string]Ref{"booking": {Stream: "booking"}, "invoice": {Stream: "invoice"}})
		var got []string
		for _, d := range read {
			got = append(got, fmt.Sprint(d.Stream, " ", d.ID, " ", strings.Join(d.Entry.Fields(), "=")))
		}
		want := []string{"booking 5-0 a=b", "booking 9-0 c=d", "invoice 9-0 c=d"}
		if test.unread != "" {
			want = slices.Insert(want, 1, "booking "+test.unread+" "+FieldUnreadable+"="+test.odd)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
		if (err == nil) != (test.unread != "") {
			t.Errorf("%s: error %v", test.name, err)
		}
	}
}

// An entry that is known by its ID, as one that was lost with its reply, is loaded however odd it is.
func TestG19OddEntryIsLoaded(t *testing.T) {
	t.Parallel()
	ref := Ref{Stream: "booking", ID: ID{5, 0}}
	for text, want := range map[string][]string{
		"*1\r\n*2\r\n$3\r\n5-0\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n": {"a", "b"},
		"*1\r\n*-1\r\n": {FieldUnreadable, "*1\r\n*-1\r\n"},
		"$2\r\nhm\r\n":  {FieldUnreadable, "$2\r\nhm\r\n"},
	} {
		d, err := loadedFrom(ref, text)
		if err != nil || d.Gone || d.Ref != ref || !slices.Equal(d.Entry.Fields(), want) {
			t.Errorf("%q: %+v, error %v, want %q", text, d, err, want)
		}
	}
	if d, err := loadedFrom(ref, "*0\r\n"); err != nil || !d.Gone {
		t.Errorf("one that is gone: %+v, error %v", d, err)
	}
	if _, err := loadedFrom(ref, "-NOPERM no\r\n"); Classify(err) != Denied {
		t.Errorf("one that is refused: error %v", err)
	}
}

// What a script has handed over comes but for what can't be read.
func TestG19OddItemOfAScript(t *testing.T) {
	t.Parallel()
	entry := func(id string) []any { return []any{int64(0), id, []any{"a", "b"}, int64(2)} }
	taken, err := allTakenOver("booking", []any{entry("5-0"), nil, entry("x"), entry("9-0")})
	if len(taken) != 2 || taken[0].ID != (ID{5, 0}) || taken[1].ID != (ID{9, 0}) || !errors.Is(err, errReply) {
		t.Errorf("%+v, error %v, want two and an error", taken, err)
	}
}

func TestReplyOfNothing(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"*-1\r\n", "$-1\r\n", "*0\r\n"} {
		if err := newReply(text).streams(func(string, Entry, bool) { t.Errorf("%q has an entry", text) }); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestReplyThatIsAnError(t *testing.T) {
	t.Parallel()
	err := newReply("-NOGROUP No such key\r\n").streams(func(string, Entry, bool) {})
	if err == nil || err.Error() != "NOGROUP No such key" || Classify(err) != Lost {
		t.Errorf("error %v of class %d, want that of the server", err, Classify(err))
	}
}

// Whatever stands in a reply, reading it ends, with entries or with an error.
func FuzzReply(f *testing.F) {
	f.Add("*1\r\n*2\r\n$7\r\nbooking\r\n*1\r\n*2\r\n$3\r\n5-0\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n")
	f.Add("*1\r\n*2\r\n$7\r\nbooking\r\n*1\r\n*2\r\n$3\r\n5-0\r\n*1000000000\r\n")
	f.Add("*-1\r\n")
	f.Add("-ERR x\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		read := 0
		_ = newReply(text).streams(func(_ string, e Entry, _ bool) {
			if read++; read > len(text) {
				t.Fatalf("more entries than bytes")
			}
		})
	})
}
