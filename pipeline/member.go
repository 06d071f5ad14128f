package pipeline

import (
	"encoding/json"
	"os"
	"time"
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

func (c *consumer) about() string {
	m := Member{
		Host: hostname(), PID: os.Getpid(), Version: c.bus.cfg.Version, Since: c.begun.UTC(),
		InFlight: c.holdings.inFlight(), Handled: c.handled.Load(), Failed: c.failed.Load(),
		Patterns: c.cfg.Patterns, Sick: c.sick(), TimeoutSeconds: c.cfg.Policy.Timeout.Seconds(),
	}
	text, _ := json.Marshal(m) // strings and numbers always marshal
	return string(text)
}
