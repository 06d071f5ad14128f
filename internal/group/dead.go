package group

import (
	"encoding/json"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/wire"
)

// Death says why and when a group gave up on a delivery. It is pipeline.Death.
type Death struct {
	Stream           string    `json:"stream"`
	OriginalPosition string    `json:"originalPosition"`
	Group            string    `json:"group"`
	Consumer         string    `json:"consumer"`
	Kind             string    `json:"kind"`
	Cause            string    `json:"cause"`
	Fingerprint      string    `json:"fingerprint"`
	Stack            string    `json:"stack,omitempty"`
	Attempts         int       `json:"attempts"`
	FirstAt          time.Time `json:"firstAt"`
	LastAt           time.Time `json:"lastAt"`
}

// burialOf makes a dead letter of a delivery.
func (c *Consumer) burialOf(h *Holding, r *Result) *redisstream.Burial {
	death := Death{
		OriginalPosition: h.Position, Stream: h.ref.Stream, Group: c.cfg.Group, Consumer: c.self.Name,
		Kind: r.Kind, Cause: shortened(r.Err.Error(), maxCause), Stack: shortened(r.Stack, maxStack),
		Attempts: int(h.Attempt), FirstAt: h.First, LastAt: time.Now().UTC(),
	}
	death.Fingerprint = Fingerprint(r.Kind, death.Cause)
	report, _ := json.Marshal(death)               // strings and numbers always marshal
	original, _ := redisstream.ParseID(h.Position) // zero, and so not there, for what other software wrote as one
	return &redisstream.Burial{
		Ref: h.ref, Original: original, Message: wire.Encode(h.Event, h.Notes().others...), Report: string(report),
	}
}
