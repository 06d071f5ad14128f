package pipeline

import (
	"encoding/json"
	"os"
	"time"

	"github.com/rishi-platform/millrace/internal/group"
)

// Member is what a consumer says of itself, beside its beat.
type Member struct {
	Host     string    `json:"host"`
	PID      int       `json:"pid"`
	Version  string    `json:"version"`
	Since    time.Time `json:"since"`
	InFlight int       `json:"inFlight"`
	Handled  int64     `json:"handled"` // deliveries since it began
	Failed   int64     `json:"failed"`
	Patterns []string  `json:"patterns"`
	Sick     *Sick     `json:"sick,omitempty"` // it has stopped itself; nil: it works

	TimeoutSeconds float64 `json:"timeoutSeconds,omitempty"` // Policy.Timeout; 0: none, or not known
}

// aboutConsumer is what a consumer of this process says of itself.
func aboutConsumer(b *Bus, c *group.Consumer) string {
	inFlight, handled, failed := c.Counts()
	m := Member{
		Host: hostname(), PID: os.Getpid(), Version: b.cfg.Version, Since: c.Begun().UTC(),
		InFlight: inFlight, Handled: handled, Failed: failed,
		Patterns: c.Patterns(), Sick: (*Sick)(c.Sick()), TimeoutSeconds: c.Timeout().Seconds(),
	}
	text, _ := json.Marshal(m) // strings and numbers always marshal
	return string(text)
}

// Sick says why a consumer has stopped itself.
type Sick struct {
	Since  time.Time `json:"since"`
	Reason string    `json:"reason"`
}
