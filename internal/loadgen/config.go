package loadgen

import (
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/rishi-platform/millrace/pipeline"
	"github.com/rishi-platform/millrace/router"
)

// Config is what both ends are told. The zero value publishes nothing: Events or For says how much.
type Config struct {
	// Type of the events; its first segment names their stream. Default: "bench.event".
	Type string
	// Group that handles them. Default: "bench".
	Group string
	// Policy of the group: InFlight, PerSubject and the rest.
	Policy router.Policy

	// Events is the number of events to publish. Default: no limit.
	Events int
	// For ends publishing after that time. Default: no limit.
	For time.Duration
	// Publishers is the number of goroutines that publish. Default: 1.
	Publishers int
	// Batch is the number of events per call of Publish. Default: 1.
	Batch int
	// Payload is the size of an event's data in bytes, at least MinPayload. Default: 256.
	Payload int
	// Streams is the number of streams that events go to in turn: those of the type with a number behind its first word. For Publish alone. Default: 0,
	// the stream of the type.
	Streams int
	// Subjects is the number of different subjects, taken in turn. Default: events have none.
	Subjects int
	// Rate is how many events are published per second, by all publishers together. Default: as many as the bus takes.
	Rate float64

	// Progress counts while the load runs. Default: nobody looks.
	Progress *Progress
	// Logger is that of the router. Default: slog.Default().
	Logger *slog.Logger
}

// Progress may be read at any time. Events that came twice are counted twice.
type Progress struct {
	Published atomic.Int64 // and stored
	Handled   atomic.Int64
}

// withDefaults returns the configuration with every default filled in, or everything that is wrong with it.
func (c Config) withDefaults() (Config, error) {
	var faults []error
	setDefault(&c.Type, "bench.event")
	setDefault(&c.Group, "bench")
	setDefault(&c.Publishers, 1)
	setDefault(&c.Batch, 1)
	setDefault(&c.Payload, 256)
	if c.Progress == nil {
		c.Progress = &Progress{}
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if err := pipeline.CheckType(c.Type); err != nil {
		faults = append(faults, fmt.Errorf("type %q %w", c.Type, err))
	}
	if c.Payload < MinPayload {
		faults = append(faults, fmt.Errorf("payload of %d bytes: want at least %d", c.Payload, MinPayload))
	}
	if min(c.Events, c.Publishers, c.Batch, c.Subjects, c.Streams) < 0 || c.For < 0 || c.Rate < 0 {
		faults = append(faults, errors.New("a number is negative"))
	}
	return c, errors.Join(faults...)
}

func setDefault[T comparable](field *T, value T) {
	if *field == *new(T) {
		*field = value
	}
}
