package group

import (
	"slices"
	"testing"
)

// What a consumer looks for: the types that it names, and what comes before the wildcards, each
// once.
func TestG08WaitedFor(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ patterns, exact, prefixes []string }{
		{nil, nil, []string{""}},
		{[]string{"booking.created", "order.created"}, []string{"booking.created"}, nil},
		{[]string{"booking.*.done", "booking.**", "booking.x"}, []string{"booking.x"}, []string{"booking."}},
		{[]string{"booking.b.*", "booking.a.*", "order.*"}, nil, []string{"booking.a.", "booking.b."}},
		{[]string{"booking.b.*", "*.created"}, nil, []string{""}},
	} {
		c := &Consumer{cfg: Config{Patterns: test.patterns}}
		exact, prefixes := c.waitedFor("booking")
		if !slices.Equal(exact, test.exact) || !slices.Equal(prefixes, test.prefixes) {
			t.Errorf("%v: looks for %q and for what begins with %q, want %q and %q",
				test.patterns, exact, prefixes, test.exact, test.prefixes)
		}
	}
}
