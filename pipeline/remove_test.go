package pipeline

import (
	"errors"
	"slices"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/rishi-platform/millrace/internal/redistest"
)

func TestRemovedStreamIsGoneAndMayBeginAnew(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		publish(t, b, Event{Type: "booking.created"}, Event{Type: "booking2.created"})
		handled := newTally()
		sub := consume(t, b, GroupConfig{Group: "billing", Patterns: []string{"booking.*"}}, AllStreams, func(m *message.Message, _ *Delivery) {
			handled.add(m.UUID)
			m.Ack()
		})
		handled.await(t, 1)
		if err := sub.Close(); err != nil {
			t.Fatal(err)
		}

		for range 2 {
			if err := b.RemoveStream(t.Context(), "booking"); err != nil {
				t.Fatal(err)
			}
		}
		if streams, err := b.Streams(t.Context()); err != nil || !slices.Equal(streams, []string{"booking2"}) {
			t.Errorf("streams: got %q, %v; want booking2 alone", streams, err)
		}
		for _, s := range b.Health(t.Context()).Streams {
			if s.Name == "booking" {
				t.Errorf("health still knows %+v", s)
			}
		}

		// A group of the old name has nothing behind it.
		id := publish(t, b, Event{Type: "booking.created"}).Outcomes[0].ID
		consume(t, b, GroupConfig{Group: "billing", Patterns: []string{"booking.*"}}, AllStreams, func(m *message.Message, _ *Delivery) {
			handled.add(m.UUID)
			m.Ack()
		})
		handled.await(t, 2)
		if handled.more()[id] > 0 {
			t.Errorf("%s was handled twice", id)
		}
	})
}

func TestRemoveStreamRefuses(t *testing.T) {
	t.Parallel()
	server := redistest.Shared(t)
	namespace := redistest.Namespace(t)
	b := openBus(t, Config{Redis: server.Options(), Namespace: namespace})
	if err := b.RemoveStream(t.Context(), "book*"); !errors.Is(err, ErrInvalid) {
		t.Errorf("a name that is none: got %v, want it invalid", err)
	}
	key := namespace + ":session"
	client := server.Client(t)
	if err := client.Set(t.Context(), key, "precious", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if err := b.RemoveStream(t.Context(), "session"); !errors.Is(err, ErrDenied) {
		t.Errorf("a key that is no stream: got %v, want it refused", err)
	}
	if n, err := client.Exists(t.Context(), key).Result(); err != nil || n != 1 {
		t.Errorf("the key that is no stream is gone (%d, %v)", n, err)
	}
}

func TestServerIsAskedForCPUAndPing(t *testing.T) {
	t.Parallel()
	b := openBus(t, Config{Redis: redistest.Shared(t).Options(), Namespace: redistest.Namespace(t)})
	if cpu, err := b.ServerCPU(t.Context(), "booking"); err != nil || cpu.MainThread <= 0 || cpu.Total < cpu.MainThread {
		t.Errorf("CPU: got %+v, %v; want some, most of it of the main thread", cpu, err)
	}
	if latency, err := b.Ping(t.Context()); err != nil || latency <= 0 {
		t.Errorf("ping: got %s, %v; want some time", latency, err)
	}

	local := openBus(t, Config{})
	if _, err := local.ServerCPU(t.Context(), "booking"); !errors.Is(err, ErrInvalid) {
		t.Errorf("CPU without redis: got %v, want it invalid", err)
	}
	if _, err := local.Ping(t.Context()); !errors.Is(err, ErrInvalid) {
		t.Errorf("ping without redis: got %v, want it invalid", err)
	}
}
