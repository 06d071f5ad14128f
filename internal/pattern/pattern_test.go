package pattern

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestMatch(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		pattern, eventType string
		want               bool
	}{
		{"booking.created", "booking.created", true},
		{"booking.created", "booking.cancelled", false},
		{"booking.created", "booking", false},
		{"booking", "booking.created", false},
		{"booking", "booking", true},
		{"booking.*", "booking.created", true},
		{"booking.*", "booking", false},
		{"booking.*", "booking.room.changed", false},
		{"booking.*", "bookings.created", false}, // whole segments
		{"booking.*.changed", "booking.room.changed", true},
		{"booking.*.changed", "booking.room.price.changed", false},
		{"booking.**", "booking.created", true},
		{"booking.**", "booking.room.changed", true},
		{"booking.**", "booking", false}, // one or more
		{"*", "booking", true},
		{"*", "booking.created", false},
		{"*.created", "booking.created", true},
		{"**", "booking", true},
		{"**", "booking.room.changed", true},
		{"**", "system.bus.durable", false},
		{"*.bus.durable", "system.bus.durable", false},
		{"system.**", "system.bus.durable", true},
		{"system.*.durable", "system.bus.durable", true},
	} {
		if got := Match(test.pattern, test.eventType); got != test.want {
			t.Errorf("%s matches %s: %v, want %v", test.pattern, test.eventType, got, test.want)
		}
	}
}

func TestCheckTypeAndPattern(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 64)
	for text, want := range map[string]struct{ isType, isPattern bool }{
		"booking.created":   {true, true},
		"a":                 {true, true},
		"a-b_c.0":           {true, true},
		"a.b.c.d.e.f.g.h":   {true, true},
		long:                {true, true},
		"*":                 {false, true},
		"**":                {false, true},
		"booking.*":         {false, true},
		"booking.*.x.**":    {false, true},
		"":                  {false, false},
		".":                 {false, false},
		"booking.":          {false, false},
		".created":          {false, false},
		"booking..created":  {false, false},
		"Booking.created":   {false, false},
		"booking created":   {false, false},
		"bücher.bestellt":   {false, false},
		"booking.**.x":      {false, false},
		"booking.c*":        {false, false},
		"***":               {false, false},
		"a.b.c.d.e.f.g.h.i": {false, false},
		long + "a":          {false, false},
		"booking:created":   {false, false},
		"booking{x}":        {false, false},
		"booking.created\n": {false, false},
	} {
		if err := CheckType(text); (err == nil) != want.isType {
			t.Errorf("type %q: error %v, want it valid: %v", text, err, want.isType)
		}
		if err := Check(text); (err == nil) != want.isPattern {
			t.Errorf("pattern %q: error %v, want it valid: %v", text, err, want.isPattern)
		}
	}
}

// The streams that a pattern is looked for in are those whose types it can match.
func TestMatchingTypesStandInMatchingStreams(t *testing.T) {
	t.Parallel()
	segment := rapid.SampledFrom([]string{"a", "b", "system"})
	rapid.Check(t, func(t *rapid.T) {
		eventType := strings.Join(rapid.SliceOfN(segment, 1, 4).Draw(t, "type"), ".")
		pattern := strings.Join(rapid.SliceOfN(rapid.OneOf(segment, rapid.Just("*")), 1, 4).Draw(t, "pattern"), ".")
		if rapid.Bool().Draw(t, "open end") {
			pattern += ".**"
		}
		if !Match(pattern, eventType) {
			return
		}
		stream := StreamOf(eventType)
		if !matchesStream(pattern, stream) {
			t.Errorf("%s matches %s, but is not looked for in %s", pattern, eventType, stream)
		}
		if named, all := Streams([]string{pattern}); !all && (len(named) != 1 || named[0] != stream) {
			t.Errorf("%s matches %s, but names the streams %v", pattern, eventType, named)
		}
	})
}

// Whatever a pattern covers matches no type that it does not match itself.
func TestCovers(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		pattern, other string
		want           bool
	}{
		{"booking.*", "booking.created", true}, {"booking.**", "booking.*.done", true}, {"booking.**", "booking.**", true},
		{"*.created", "booking.created", true}, {"booking.**", "booking.created.**", true}, {"**", "booking.**", true},
		{"booking.created", "booking.*", false}, {"booking.*", "booking.**", false}, {"booking.*.**", "booking.**", false},
		{"booking.**", "booking", false}, {"booking.**", "invoice.**", false}, {"**", "system.**", false},
	} {
		if got := covers(test.pattern, test.other); got != test.want {
			t.Errorf("%s covers %s: %v, want %v", test.pattern, test.other, got, test.want)
		}
	}
	segment := rapid.SampledFrom([]string{"system", "a", "b", "*"})
	rapid.Check(t, func(t *rapid.T) {
		draw := func(of *rapid.Generator[string], label string) string {
			return strings.Join(rapid.SliceOfN(of, 1, 4).Draw(t, label), ".")
		}
		pattern, other := draw(segment, "pattern"), draw(segment, "other")
		if rapid.Bool().Draw(t, "**") {
			pattern += ".**"
		}
		if rapid.Bool().Draw(t, "**") {
			other += ".**"
		}
		eventType := draw(rapid.SampledFrom([]string{"system", "a", "b"}), "type")
		if covers(pattern, other) && Match(other, eventType) && !Match(pattern, eventType) {
			t.Fatalf("%s does not match %s, as %s does", pattern, eventType, other)
		}
	})
}
