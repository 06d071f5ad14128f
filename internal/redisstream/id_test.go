package redisstream

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

func TestParseID(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]ID{
		"0-0":                    {},
		"1764000000000-7":        {1764000000000, 7},
		"1764000000000":          {1764000000000, 0},
		"18446744073709551615-1": {math.MaxUint64, 1},
	} {
		if got, err := ParseID(text); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "-", "-1", "1-", "x", "1-x", "1-2-3", "+1", "1-*", "18446744073709551616", " 1"} {
		if got, err := ParseID(text); err == nil {
			t.Errorf("%q is read as %v", text, got)
		}
	}
}

func TestIDsNextToEachOther(t *testing.T) {
	t.Parallel()
	edges := rapid.OneOf(rapid.Uint64(), rapid.SampledFrom([]uint64{0, 1, math.MaxUint64 - 1, math.MaxUint64}))
	rapid.Check(t, func(t *rapid.T) {
		id := ID{edges.Draw(t, "ms"), edges.Draw(t, "seq")}
		if again, err := ParseID(id.String()); err != nil || again != id {
			t.Fatalf("%v is written as %s and read as %v, %v", id, id, again, err)
		}
		if next := id.Next(); id != MaxID && (next.Compare(id) != 1 || next.Prev() != id) {
			t.Fatalf("next of %v is %v, and before that stands %v", id, next, next.Prev())
		}
		if prev := id.Prev(); !id.IsZero() && (prev.Compare(id) != -1 || prev.Next() != id) {
			t.Fatalf("before %v stands %v, and next of that is %v", id, prev, prev.Next())
		}
	})
	if (ID{}).Prev() != (ID{}) || MaxID.Next() != MaxID {
		t.Error("the ends have something beyond them")
	}
}
