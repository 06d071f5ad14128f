// Watermill plugs the bus into a plain Watermill router: bookings come in by a consumer group, invoices go out.
//
//	go run ./examples/watermill
//
// A topic is the name of a stream; the metadata "type" is the type of the event. Ack and Nack settle a delivery.
package main

import (
	"context"
	"fmt"
	"log"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/rishi-platform/millrace/pipeline"
)

func main() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	bus, err := pipeline.OpenFromEnv(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer bus.Close(context.Background())

	r := message.NewDefaultRouter(watermill.NopLogger{})
	r.AddHandler("invoicing", "booking", bus.Subscriber(pipeline.GroupConfig{Group: "billing"}), "invoice", bus.Publisher(), invoice)
	r.AddConsumerHandler("printing", "invoice", bus.Subscriber(pipeline.GroupConfig{Group: "printer"}), func(msg *message.Message) error {
		fmt.Printf("%s: %s\n", msg.Metadata.Get("type"), msg.Payload)
		stop()
		return nil
	})

	if _, err := bus.Publish(ctx, pipeline.Event{Type: "booking.created", Data: []byte(`{"total":120}`)}); err != nil {
		log.Fatal(err)
	}
	if err := r.Run(ctx); err != nil {
		log.Fatal(err)
	}
}

// invoice turns a booking into an invoice. The context of the delivery goes along: the two events share a correlation ID.
func invoice(booking *message.Message) ([]*message.Message, error) {
	m := message.NewMessageWithContext(booking.Context(), watermill.NewUUID(), booking.Payload)
	m.Metadata.Set("type", "invoice.issued")
	return message.Messages{m}, nil
}
