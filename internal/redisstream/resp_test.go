package redisstream

import (
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
