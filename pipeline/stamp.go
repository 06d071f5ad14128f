package pipeline

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/rishi-platform/millrace/internal/wire"
)

// stamp returns copies of the events with everything filled in that the publisher left out, or all faults of the call. What the copies
// refer to is still the publisher's own: it is encoded before the call waits for anything. Only headers are copied where hooks may
// add to them.
func (b *Bus) stamp(ctx context.Context, events []Event, internal bool) ([]Event, error) {
	stamped := slices.Clone(events)
	var invalid ValidationError
	correlation, causation := CorrelationID(ctx), causationID(ctx)
	now := time.Now().UTC()
	missing := 0
	for i := range stamped {
		if stamped[i].ID == "" {
			missing++
		}
	}
	ids := newIDs(missing)
	for i := range stamped {
		e := &stamped[i]
		if b.cfg.Hooks.Publish != nil {
			if e.Header = maps.Clone(e.Header); e.Header == nil {
				e.Header = map[string]string{}
			}
		}
		if e.CorrelationID == "" {
			if correlation == "" {
				correlation = NewCorrelationID() // one for all events of the call: one cause
			}
			e.CorrelationID = correlation
		}
		setDefault(&e.CausationID, causation)
		setDefault(&e.Source, b.cfg.Service)
		setDefault(&e.ContentType, ContentTypeJSON)
		if e.ID == "" {
			e.ID, ids = ids[0], ids[1:]
		}
		if e.Time.IsZero() {
			e.Time = now
		}
		b.check(i, e, internal, &invalid)
	}
	if len(invalid.Faults) > 0 {
		return nil, &ValidationError{Faults: invalid.Faults, TooLarge: invalid.TooLarge}
	}
	return stamped, nil
}

// check adds what is wrong with the event to the faults of the call.
func (b *Bus) check(index int, e *Event, internal bool, invalid *ValidationError) {
	fault := func(field, format string, args ...any) {
		invalid.Faults = append(invalid.Faults, Fault{Index: index, Field: field, Reason: fmt.Sprintf(format, args...)})
	}
	if err := CheckType(e.Type); err != nil {
		fault("type", "%v", err)
	} else if e.Stream() == SystemStream && !internal {
		fault("type", "types of the stream %q are published by Millrace only", SystemStream)
	}
	for _, f := range []struct {
		field, value string
		limit        int
	}{{"id", e.ID, 256}, {"correlationId", e.CorrelationID, 128}, {"source", e.Source, 256}} {
		if !visibleASCII(f.value, f.limit) {
			fault(f.field, "must be 1 to %d visible ASCII characters", f.limit)
		}
	}
	if e.CausationID != "" && !visibleASCII(e.CausationID, 256) {
		fault("causationId", "must be at most 256 visible ASCII characters")
	}
	if _, err := wire.CheckedTime(e.Time); err != nil {
		fault("time", "%v", err)
	}
	metadata := len(e.Subject) + len(e.OrganizationID) + len(e.UserID) + len(e.ContentType)
	for name, value := range e.Header {
		if err := CheckHeader(name); err != nil {
			fault("header."+name, "%v", err)
		}
		metadata += len(name) + len(value)
	}
	if len(e.Data) > b.cfg.MaxDataBytes {
		invalid.TooLarge = true
		fault("data", "has %d bytes, at most %d are allowed", len(e.Data), b.cfg.MaxDataBytes)
	}
	if len(e.Data) <= b.cfg.MaxDataBytes && isJSON(e.ContentType) {
		if reason := jsonFault(e.Data); reason != "" {
			fault("data", "%s", reason)
		}
	}
	if metadata > b.cfg.MaxMetadataBytes {
		invalid.TooLarge = true
		fault("metadata", "has %d bytes, at most %d are allowed", metadata, b.cfg.MaxMetadataBytes)
	}
}
