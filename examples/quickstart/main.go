// Quickstart publishes one event and handles it.
//
//	go run ./examples/quickstart
//
// It needs nothing but Go. With ENABLE_REDIS_EVENTS=true and REDIS_URL set, the same code goes by Redis.
package main

import (
	"context"
	"fmt"
	"log"

	"github.com/rishi-platform/millrace/pipeline"
	"github.com/rishi-platform/millrace/router"
)

type Booking struct {
	Guest string  `json:"guest"`
	Total float64 `json:"total"`
}

// BookingCreated is shared by those who publish it and those who handle it.
var BookingCreated = pipeline.EventType[Booking]{Name: "booking.created"}

func main() {
	ctx, stop := context.WithCancel(context.Background())
	bus, err := pipeline.OpenFromEnv(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer bus.Close(context.Background())

	r := router.New(bus, router.Config{})
	billing := r.Group("billing", router.Policy{})
	router.Handle(billing, BookingCreated, func(ctx context.Context, m router.Message[Booking]) error {
		fmt.Printf("%s owes %.2f for %s\n", m.Data.Guest, m.Data.Total, m.Subject)
		stop() // a real service runs until it gets SIGTERM
		return nil
	})

	event, err := BookingCreated.New(Booking{Guest: "Ada", Total: 120})
	if err != nil {
		log.Fatal(err)
	}
	event.Subject = "booking/789"
	if _, err := bus.Publish(ctx, event); err != nil {
		log.Fatal(err)
	}
	if err := r.Run(ctx); err != nil { // lets the handler finish, and acknowledges
		log.Fatal(err)
	}
}
