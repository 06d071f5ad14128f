package pipeline

import "context"

type (
	correlationKey struct{}
	deliveryKey    struct{}
	recordKey      struct{}
)

// HeaderCorrelationID is the HTTP header that carries the correlation ID into and out of a service.
const HeaderCorrelationID = "X-Correlation-ID"

// WithCorrelationID returns a ctx from which Publish takes the correlation ID. An ID that is not 1 to 128 visible ASCII
// characters is ignored: the ctx is returned as it is.
func WithCorrelationID(ctx context.Context, id string) context.Context {
	if !ValidCorrelationID(id) {
		return ctx
	}
	return context.WithValue(ctx, correlationKey{}, id)
}

// CorrelationID returns the correlation ID that ctx carries: the one given to WithCorrelationID, or that of the event
// being handled. It is empty where there is none.
func CorrelationID(ctx context.Context) string {
	id, _ := ctx.Value(correlationKey{}).(string)
	return id
}

// ValidCorrelationID reports whether id is 1 to 128 visible ASCII characters.
func ValidCorrelationID(id string) bool { return visibleASCII(id, 128) }

// NewCorrelationID returns a fresh correlation ID, a UUIDv7.
func NewCorrelationID() string { return newID() }

// CurrentDelivery returns the delivery that is being handled, nil outside of a handler.
func CurrentDelivery(ctx context.Context) *Delivery {
	d, _ := ctx.Value(deliveryKey{}).(*Delivery)
	return d
}

// CurrentRecord returns the event that a subscription's function is called with, and where it stands; nil outside of one.
func CurrentRecord(ctx context.Context) *Record {
	h, _ := ctx.Value(recordKey{}).(*heard)
	if h == nil {
		return nil
	}
	return &h.Record
}

// withCause returns the ctx of a handler of e: what it publishes shares the correlation of e and is caused by e.
func withCause(ctx context.Context, e *Event) context.Context {
	ctx = context.WithValue(ctx, causationKey{}, e.ID)
	return WithCorrelationID(ctx, e.CorrelationID)
}

type causationKey struct{}

// WithCausationID returns a ctx from which Publish takes the causation ID, for an edge that knows it from elsewhere: a
// program that a handler started, say. Inside of a handler nobody needs it. An ID that is not 1 to 256 visible ASCII characters is
// ignored.
func WithCausationID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, causationKey{}, id)
}

// causationID returns the ID of the event being handled. One that no event of ours may carry is left out: otherwise no handler of
// an entry that other software wrote could publish anything (RELIABILITY F01).
func causationID(ctx context.Context) string {
	id, _ := ctx.Value(causationKey{}).(string)
	if !visibleASCII(id, 256) {
		return ""
	}
	return id
}

// visibleASCII reports whether s has 1 to limit characters, all of them visible ASCII.
func visibleASCII(s string, limit int) bool {
	if s == "" || len(s) > limit {
		return false
	}
	for i := range len(s) {
		if s[i] < '!' || s[i] > '~' {
			return false
		}
	}
	return true
}
