package main

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/rishi-platform/millrace/pipeline"
	"github.com/rishi-platform/millrace/router"
)

// The demo is a small booking service: a backend that emits booking.created, and two groups that handle it. Billing issues an
// invoice for each booking, and notifications tells the guest about it when it is issued.

type booking struct {
	ID     int    `json:"id"`
	Guest  string `json:"guest"`
	Nights int    `json:"nights"`
}

type invoice struct {
	Booking int `json:"booking"`
	Total   int `json:"total"`
}

type notice struct {
	Guest string `json:"guest,omitempty"`
	Text  string `json:"text"`
}

var (
	bookingCreated   = pipeline.EventType[booking]{Name: "booking.created", Version: 1}
	invoiceIssued    = pipeline.EventType[invoice]{Name: "invoice.issued", Version: 1}
	notificationSent = pipeline.EventType[notice]{Name: "notification.sent", Version: 1}
)

const (
	demoEvery     = time.Second
	pricePerNight = 90
)

// demo is the workload while it runs.
type demo struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// startDemo starts the workload if it is wanted. It works on the given bus, as a service of its own would.
func startDemo(ctx context.Context, wanted bool, bus *pipeline.Bus) *demo {
	ctx, cancel := context.WithCancel(ctx)
	d := &demo{cancel: cancel}
	if !wanted {
		return d
	}
	r := router.New(bus, router.Config{})
	billing := r.Group("billing", router.Policy{})
	router.Handle(billing, bookingCreated, func(ctx context.Context, m router.Message[booking]) error {
		return emit(ctx, bus, invoiceIssued, m.Subject, invoice{Booking: m.Data.ID, Total: m.Data.Nights * pricePerNight})
	})
	notifications := r.Group("notifications", router.Policy{})
	router.Handle(notifications, bookingCreated, func(ctx context.Context, m router.Message[booking]) error {
		return emit(ctx, bus, notificationSent, m.Subject, notice{Guest: m.Data.Guest, Text: "your room is booked"})
	})
	router.Handle(notifications, invoiceIssued, func(ctx context.Context, m router.Message[invoice]) error {
		return emit(ctx, bus, notificationSent, m.Subject, notice{Text: fmt.Sprintf("your invoice over %d is here", m.Data.Total)})
	})
	d.done.Go(func() {
		if err := r.Run(ctx); err != nil {
			slog.Error("demo workers ended", "err", err)
		}
	})
	d.done.Go(func() { backend(ctx, bus) })
	return d
}

// stop ends the workload: the backend at once, the groups when they have finished what they handle.
func (d *demo) stop() {
	d.cancel()
	d.done.Wait()
}

// backend books a room about once a second.
func backend(ctx context.Context, bus *pipeline.Bus) {
	guests := []string{"Ada", "Edsger", "Grace", "Ken", "Barbara"}
	ticker := time.NewTicker(demoEvery)
	defer ticker.Stop()
	for id := 1; ; id++ {
		b := booking{ID: id, Guest: guests[rand.N(len(guests))], Nights: 1 + rand.N(7)}
		if err := emit(ctx, bus, bookingCreated, fmt.Sprintf("booking/%d", id), b); err != nil && ctx.Err() == nil {
			slog.Warn("demo could not book", "err", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// emit publishes one event about a subject.
func emit[T any](ctx context.Context, bus *pipeline.Bus, t pipeline.EventType[T], subject string, payload T) error {
	e, err := t.New(payload)
	if err != nil {
		return err
	}
	e.Subject = subject
	_, err = bus.Publish(ctx, e)
	return err
}
