package redisstream

import (
	"bytes"
	"errors"
	"maps"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vmihailenco/msgpack" // what watermill-redisstream writes and reads metadata with
)

// readAll returns what b holds, in its order.
func readAll(b []byte) (pairs []Pair, err error) {
	err = ReadMetadata(string(b), func(key, value string) error {
		pairs = append(pairs, Pair{key, value})
		return nil
	})
	return pairs, err
}

func mapOf(pairs []Pair) map[string]string {
	m := map[string]string{}
	for _, p := range pairs {
		m[p.Key] = p.Value
	}
	return m
}

func TestNoMetadataIsNoBytes(t *testing.T) {
	t.Parallel()
	if got := AppendMetadata([]byte("before"), nil); string(got) != "before" {
		t.Errorf("no pairs were written as %q, want nothing", got[len("before"):])
	}
	for name, b := range map[string][]byte{"nothing": nil, "nil": {0xc0}, "empty map": {0x80}} {
		if pairs, err := readAll(b); err != nil || len(pairs) > 0 {
			t.Errorf("%s was read as %v, error %v; want no metadata", name, pairs, err)
		}
	}
}

// At every length at which the format changes we write what the library writes, byte for byte.
func TestMetadataIsWrittenAsTheLibraryDoes(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 31, 32, 255, 256, 65_535, 65_536} {
		pair := Pair{Key: strings.Repeat("k", n), Value: strings.Repeat("v", n)}
		want, err := msgpack.Marshal(mapOf([]Pair{pair}))
		if err != nil {
			t.Fatal(err)
		}
		if got := AppendMetadata(nil, []Pair{pair}); !bytes.Equal(got, want) {
			t.Errorf("strings of %d bytes: got % x…, want % x…", n, got[:min(8, len(got))], want[:min(8, len(want))])
		}
	}
}

func TestMetadataOfAnySizeRoundTrips(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 15, 16, 65_535, 65_536} {
		var want []Pair
		for i := range n {
			want = append(want, Pair{Key: strconv.Itoa(i), Value: strings.Repeat("v", i%40)})
		}
		written := AppendMetadata(nil, want)
		got, err := readAll(written)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%d pairs: error %v (-want +got):\n%s", n, err, diff)
		}
		var theirs map[string]string
		if err := msgpack.Unmarshal(written, &theirs); err != nil || !maps.Equal(theirs, mapOf(want)) {
			t.Errorf("%d pairs: the library reads %d of them, error %v", n, len(theirs), err)
		}
	}
}

func TestMetadataOfOtherTypesIsRefused(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]any{
		"string": "a", "number": 1, "array": []string{"a", "b"}, "boolean": true, "map of numbers": map[string]int{"a": 1},
		"map of maps": map[string]map[string]string{"a": {}}, "map by numbers": map[int]string{1: "a"}, "map of floats": map[string]float64{"a": 1},
	} {
		b, err := msgpack.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		if pairs, err := readAll(b); !errors.Is(err, errMetadata) {
			t.Errorf("%s was read as %v, error %v; want errMetadata", name, pairs, err)
		}
	}
}

func TestMetadataOfBinariesAndNilIsRead(t *testing.T) {
	t.Parallel()
	b := []byte{0x84, 0xc4, 1, 'a', 0xc5, 0, 1, 'b', 0xc6, 0, 0, 0, 1, 'c', 0xd9, 1, 'd', 0xda, 0, 1, 'e', 0xdb, 0, 0, 0, 1, 'f', 0xa1, 'g', 0xc0}
	want := []Pair{{"a", "b"}, {"c", "d"}, {"e", "f"}, {"g", ""}}
	got, err := readAll(b)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("error %v (-want +got):\n%s", err, diff)
	}
}

func TestMetadataThatIsCutOrContinuedIsRefused(t *testing.T) {
	t.Parallel()
	var pairs []Pair
	for i, length := range []int{1, 40, 300, 70_000} { // each kind of string
		pairs = append(pairs, Pair{Key: strconv.Itoa(i), Value: strings.Repeat("v", length)})
	}
	whole := AppendMetadata(nil, pairs)
	for n := 1; n < len(whole); n = max(n+1, min(n*2, len(whole)-700)) { // every length near both ends, some between
		if got, err := readAll(whole[:n]); !errors.Is(err, errMetadata) {
			t.Errorf("%d of %d bytes were read as %d pairs, error %v; want errMetadata", n, len(whole), len(got), err)
		}
	}
	if _, err := readAll(append(whole, 0xc0)); !errors.Is(err, errMetadata) {
		t.Errorf("error %v for bytes behind the map, want errMetadata", err)
	}
}

func TestReadMetadataEndsWithTheErrorOfTheCaller(t *testing.T) {
	t.Parallel()
	want, calls := errors.New("enough"), 0
	got := ReadMetadata(string(AppendMetadata(nil, []Pair{{"a", "1"}, {"b", "2"}})), func(string, string) error { calls++; return want })
	if got != want || calls != 1 {
		t.Errorf("error %v after %d calls, want %v after 1", got, calls, want)
	}
}

// It is on the way of every event that is published. Not parallel: the allocations of others would count.
func TestAppendMetadataAllocatesNothing(t *testing.T) {
	pairs := []Pair{{"type", "booking.created"}, {"subject", strings.Repeat("s", 300)}}
	dst := make([]byte, 0, 1024)
	if got := testing.AllocsPerRun(100, func() { dst = AppendMetadata(dst[:0], pairs) }); got != 0 {
		t.Errorf("%v allocations, want none", got)
	}
}

// What the library writes we read, and the other way round.
func FuzzMetadataWithTheLibrary(f *testing.F) {
	f.Add("type", "booking.created", "", "\xff\x00", uint16(0))
	f.Add("correlation_id", strings.Repeat("c", 300), "k", strings.Repeat("é", 20), uint16(20))
	f.Fuzz(func(t *testing.T, key, value, key2, value2 string, more uint16) {
		pairs := []Pair{{key, value}}
		if key2 != key {
			pairs = append(pairs, Pair{key2, value2})
		}
		for i := range more % 1_000 {
			if k := "more-" + strconv.Itoa(int(i)); k != key && k != key2 {
				pairs = append(pairs, Pair{k, value})
			}
		}
		theirs, err := msgpack.Marshal(mapOf(pairs))
		if err != nil {
			t.Fatal(err)
		}
		got, err := readAll(theirs)
		if err != nil || len(got) != len(pairs) || !maps.Equal(mapOf(got), mapOf(pairs)) {
			t.Errorf("of %q by the library we read %q, error %v", pairs, got, err)
		}
		ours := AppendMetadata(nil, pairs)
		if got, err := readAll(ours); err != nil || !cmp.Equal(got, pairs) {
			t.Errorf("of %q by us we read %q, error %v", pairs, got, err)
		}
		var read map[string]string
		if err := msgpack.Unmarshal(ours, &read); err != nil || !maps.Equal(read, mapOf(pairs)) {
			t.Errorf("of %q by us the library reads %q, error %v", pairs, read, err)
		}
	})
}

// No bytes make it panic, and what it accepts the library reads as the same.
func FuzzReadMetadata(f *testing.F) {
	f.Add([]byte{0x81, 0xa1, 'a', 0xd9, 1, 'b'})
	f.Add([]byte{0xde, 0, 1, 0xc4, 1, 'a', 0xc0})
	f.Add([]byte{0xdf, 0xff, 0xff, 0xff, 0xff, 0xdb, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		pairs, err := readAll(b)
		if err != nil || len(b) == 0 {
			return
		}
		var want map[string]string
		if err := msgpack.Unmarshal(b, &want); err != nil {
			t.Fatalf("% x was read as %q, which the library refuses: %v", b, pairs, err)
		}
		if diff := cmp.Diff(want, mapOf(pairs), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("% x (-library +ours):\n%s", b, diff)
		}
	})
}
