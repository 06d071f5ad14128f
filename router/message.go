package router

import "github.com/rishi-platform/millrace/pipeline"

// Message is a delivery whose payload was decoded: m.ID, m.Subject and the other attributes of the event, m.Attempt and
// m.Position of the delivery, and the payload in m.Data (its bytes are m.Event.Data).
type Message[T any] struct {
	pipeline.Event
	*pipeline.Delivery
	Data T
}

// Stream returns the stream that the event was read from.
func (m Message[T]) Stream() string { return m.Delivery.Stream }
