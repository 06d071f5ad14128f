package chaos

import (
	"encoding/json"
	"io"
	"time"
)

// Order is the payload of an event: what its handlers are to do with it.
type Order struct {
	Wait      time.Duration `json:"wait"`      // how long they run
	Fails     int           `json:"fails"`     // how many attempts of the group Flaky fail
	Permanent bool          `json:"permanent"` // the group Flaky gives it up
	Die       Moment        `json:"die,omitempty"`
}

// Moment is when an event of the group Deadly makes its process die.
type Moment string

// The moments.
const (
	Never  Moment = ""
	Always Moment = "always" // as soon as its handler runs
	Unsent Moment = "unsent" // after it was handled, and before that is acknowledged; not where it was taken over
)

// The groups that the workers are in.
const (
	Steady = "steady" // handles everything at once
	Flaky  = "flaky"  // fails as it is ordered to
	Deadly = "deadly" // handles each event once, and lets its process die as it is ordered to; it takes DeadlyType
)

// Record is what a worker reports: the begin of a run, or its end.
type Record struct {
	Group   string    `json:"group"`
	ID      string    `json:"id"` // of the event
	Attempt int       `json:"attempt"`
	Begin   bool      `json:"begin,omitempty"`
	Error   string    `json:"error,omitempty"` // of an end: why it failed; empty: it was handled
	At      time.Time `json:"at"`              // of the machine's clock, which all processes share
}

// write writes the record as one line in one write, so that a process that is killed leaves whole lines.
func (r Record) write(w io.Writer) {
	line, _ := json.Marshal(r)         // strings and numbers always marshal
	_, _ = w.Write(append(line, '\n')) // where nobody reads any more the process is about to end
}
