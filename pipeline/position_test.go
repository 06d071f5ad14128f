package pipeline

import (
	"testing"
	"time"
)

func TestParsePosition(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Position{"oldest": Oldest, "now": Now, "5": "5-0", " 1764000000000-7 ": "1764000000000-7", "0": "0-0"} {
		if got, err := ParsePosition(text); err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"", "newest", "$", ">", "-1", "5-", "5-0-0", "2026-11-24"} {
		if got, err := ParsePosition(text); err == nil {
			t.Errorf("%q is read as %q", text, got)
		}
	}
}

func TestPositionsInOrder(t *testing.T) {
	t.Parallel()
	at := At(time.UnixMilli(1764000000000))
	order := []Position{Oldest, "1-0", "9-99", "10-0", at, "1764000000000-1", Now}
	for i := range order[1:] {
		if a, b := order[i], order[i+1]; a.Compare(b) != -1 || b.Compare(a) != 1 || a.Compare(a) != 0 {
			t.Errorf("%s does not stand before %s", a, b)
		}
	}
	if got, ok := at.Time(); !ok || !got.Equal(time.UnixMilli(1764000000000)) {
		t.Errorf("time of %s is %v, %v", at, got, ok)
	}
	for _, p := range []Position{Oldest, Now, ""} {
		if got, ok := p.Time(); ok {
			t.Errorf("%q has the time %v", p, got)
		}
	}
}
