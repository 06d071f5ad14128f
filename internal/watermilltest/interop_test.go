package watermilltest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-redisstream/pkg/redisstream"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
	"github.com/rishi-platform/millrace/internal/redistest"
	"github.com/rishi-platform/millrace/pipeline"
)

// next returns the next message, acknowledged.
func next(t testing.TB, messages <-chan *message.Message) *message.Message {
	t.Helper()
	select {
	case m := <-messages:
		m.Ack()
		return m
	case <-time.After(20 * time.Second):
		t.Fatal("no message came")
		panic("unreachable")
	}
}

func TestInteropFromTheirPublisherToOurSubscriber(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	theirs, err := redisstream.NewPublisher(redisstream.PublisherConfig{Client: server.Client(t)}, watermill.NopLogger{})
	if err != nil {
		t.Fatal(err)
	}
	bus := openBus(t, pipeline.Config{Redis: server.Options()})
	want := message.NewMessage(watermill.NewUUID(), []byte("\x00payload\xff"))
	want.Metadata = message.Metadata{"correlation_id": "c-1", "name": "Grüße", "empty": ""}
	bare := message.NewMessage(watermill.NewUUID(), nil)
	bare.Metadata = nil
	if err := theirs.Publish("booking", want, bare); err != nil {
		t.Fatal(err)
	}
	messages, err := bus.Subscriber(pipeline.GroupConfig{Group: "ours"}).Subscribe(t.Context(), "booking")
	if err != nil {
		t.Fatal(err)
	}
	got := next(t, messages)
	if got.UUID != want.UUID || string(got.Payload) != string(want.Payload) {
		t.Errorf("got %s %q, want %s %q", got.UUID, got.Payload, want.UUID, want.Payload)
	}
	for key, value := range want.Metadata {
		if got.Metadata[key] != value {
			t.Errorf("metadata %s = %q, want %q", key, got.Metadata[key], value)
		}
	}
	if d := pipeline.CurrentDelivery(got.Context()); d.Event.Type != "booking" || d.Event.CorrelationID != "c-1" {
		t.Errorf("as an event: type %q, correlation %q, want booking, c-1", d.Event.Type, d.Event.CorrelationID)
	}
	if got := next(t, messages); got.UUID != bare.UUID || len(got.Payload) != 0 {
		t.Errorf("the bare message came as %s %q, want %s without payload", got.UUID, got.Payload, bare.UUID)
	}
}

func TestInteropFromOurPublisherToTheirSubscriber(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	bus := openBus(t, pipeline.Config{Redis: server.Options(), Service: "shop"})
	at := time.Date(2026, 11, 24, 1, 2, 3, 4005006, time.UTC)
	event := pipeline.Event{
		ID: "e-1", Type: "booking.created", Subject: "booking/1", Time: at, CorrelationID: "c-1", CausationID: "e-0", OrganizationID: "o", UserID: "u",
		Header: map[string]string{"k": "v"}, Data: []byte(`{"id":1}`),
	}
	if _, err := bus.Publish(t.Context(), event); err != nil {
		t.Fatal(err)
	}
	theirs, err := redisstream.NewSubscriber(redisstream.SubscriberConfig{Client: server.Client(t), ConsumerGroup: "theirs", Consumer: "c"}, watermill.NopLogger{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = theirs.Close() })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	messages, err := theirs.Subscribe(ctx, "booking")
	if err != nil {
		t.Fatal(err)
	}
	got := next(t, messages)
	want := message.Metadata{
		"type": "booking.created", "source": "shop", "subject": "booking/1", "time": "2026-11-24T01:02:03.004005006Z", "correlation_id": "c-1",
		"causation_id": "e-0", "organization_id": "o", "user_id": "u", "k": "v", // and no content type: JSON goes without saying
	}
	if diff := cmp.Diff(want, got.Metadata); diff != "" {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
	if got.UUID != "e-1" || string(got.Payload) != `{"id":1}` {
		t.Errorf("got %s %s, want e-1 {\"id\":1}", got.UUID, got.Payload)
	}
}

// Both sides in one group, during a rollout: each event is handled once, by either.
func TestInteropOneGroupOfBoth(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	bus := openBus(t, pipeline.Config{Redis: server.Options()})
	theirPublisher, err := redisstream.NewPublisher(redisstream.PublisherConfig{Client: server.Client(t)}, watermill.NopLogger{})
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := redisstream.NewSubscriber(redisstream.SubscriberConfig{Client: server.Client(t), ConsumerGroup: "billing", Consumer: "theirs", OldestId: "0"}, watermill.NopLogger{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = theirs.Close() })
	handled := make(chan string, 400)
	for name, sub := range map[string]message.Subscriber{"ours": bus.Subscriber(pipeline.GroupConfig{Group: "billing"}), "theirs": theirs} {
		messages, err := sub.Subscribe(t.Context(), "booking")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		go func() {
			for m := range messages {
				handled <- m.UUID
				m.Ack()
			}
		}()
	}
	for i := range 100 {
		if err := theirPublisher.Publish("booking", message.NewMessage(fmt.Sprint("theirs-", i), []byte("1"))); err != nil {
			t.Fatal(err)
		}
		if _, err := bus.Publish(t.Context(), pipeline.Event{Type: "booking.created", ID: fmt.Sprint("ours-", i)}); err != nil {
			t.Fatal(err)
		}
	}
	count := map[string]int{}
	for range 200 {
		select {
		case id := <-handled:
			count[id]++
		case <-time.After(20 * time.Second):
			t.Fatalf("%d of 200 events were handled", len(count))
		}
	}
	if len(count) != 200 {
		t.Errorf("%d different events were handled, want 200", len(count))
	}
}
