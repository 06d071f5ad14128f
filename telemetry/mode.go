package telemetry

import "fmt"

// Mode says whether the span of an attempt continues the trace of the publish that it handles, or starts one of its own.
// It links to the publish either way.
type Mode int

const (
	// Auto continues while the publish is near: a fresh event, at most five minutes old. What an earlier attempt or an
	// operator sent again starts a trace of its own, which keeps traces short and readable.
	Auto Mode = iota
	// Continue always makes the span a child of the publish.
	Continue
	// Link always starts a new trace.
	Link
)

var modeNames = [...]string{"auto", "continue", "link"}

// String returns the name of the mode: auto, continue or link.
func (m Mode) String() string {
	if m < 0 || int(m) >= len(modeNames) {
		return fmt.Sprintf("mode(%d)", int(m))
	}
	return modeNames[m]
}

// MarshalText returns the name of the mode. With UnmarshalText it makes a Mode the value of a flag (flag.TextVar).
func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText takes the name of a mode.
func (m *Mode) UnmarshalText(text []byte) error {
	for i, name := range modeNames {
		if name == string(text) {
			*m = Mode(i)
			return nil
		}
	}
	return fmt.Errorf("trace mode %q: want auto, continue or link", text)
}
