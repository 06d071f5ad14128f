package pipeline

import (
	"fmt"

	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/wire"
)

const (
	// HeaderTraceParent and HeaderTraceState carry the creation context of an event, W3C Trace Context. They stand in Event.Header.
	HeaderTraceParent = "traceparent"
	HeaderTraceState  = "tracestate"
)

// CheckHeader returns an error that says why an event may not carry a header of this name, nil if it may.
func CheckHeader(name string) error {
	switch {
	case !visibleASCII(name, 256):
		return fmt.Errorf("name must be 1 to 256 visible ASCII characters")
	case wire.IsReserved(name):
		return fmt.Errorf("name is reserved")
	}
	return nil
}

// ContentTypeFields is the content type of an event made of a foreign entry: a JSON array of [name, value] pairs.
const ContentTypeFields = "application/vnd.millrace.fields+json"

// wire reads the entries of this bus.
func (b *Bus) wire() wire.Format { return wire.Format{Namespace: b.cfg.Namespace} }

// decode reads an entry of a stream.
func (b *Bus) decode(stream string, entry redisstream.Entry) wire.Decoded {
	return b.wire().Decode(stream, entry)
}
