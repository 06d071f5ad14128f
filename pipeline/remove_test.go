package pipeline

import (
	"errors"
	"slices"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/rishi-platform/millrace/internal/redisstream"
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

// What was drained from a spool may have a place that nobody knows: 256 such events came back into a stream that an operator had removed.
func TestP15RemovedStreamTakesEventsWithoutAPlaceAlong(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	b, operator := openBus(t, Config{Redis: server.Options()}), openBus(t, Config{Redis: server.Options()})
	publish(t, b, Event{Type: "booking.created"})
	publish(t, operator, Event{Type: "booking.created"})
	drained := confirmedAppend{messages: []redisstream.Message{{UUID: "drained"}}}
	lost := func(seq uint64) int {
		b.confirmed.note("booking", redisstream.Writer{Name: b.instance + "-drained", Seq: seq}, 0, drained)
		b.compareMarks("booking")
		f := b.confirmed.takeForgotten("booking")
		for i := range f.appends {
			if seq == 3 {
				f.appends[i].noted = f.appends[i].noted.Add(2 * clockSkew)
			}
		}
		lost := b.sift("booking", &f)
		return len(lost)
	}
	if n := lost(1); n != 1 {
		t.Errorf("%d events are lost whose mark is gone, want 1", n)
	}
	if err := operator.RemoveStream(t.Context(), "booking"); err != nil {
		t.Fatal(err)
	}
	if n := lost(2); n != 0 {
		t.Errorf("%d events are lost that went with the stream", n)
	}
	if n := lost(3); n != 1 {
		t.Errorf("%d events are lost that came after the removal, want 1", n)
	}
}

// A stream whose removal can't be noted stays: else its other publishers would bring it back.
func TestP15RemovalIsNotedFirst(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	publish(t, openBus(t, Config{Redis: server.Options()}), Event{ID: "kept", Type: "booking.created"})
	client := server.Client(t)
	for _, right := range []string{"set", "unlink"} {
		if err := client.Do(t.Context(), "ACL", "SETUSER", right, "on", ">secret", "~*", "+@all", "-"+right).Err(); err != nil {
			t.Fatal(err)
		}
		options := server.Options()
		options.Username, options.Password = right, "secret"
		operator := openBus(t, Config{Redis: options})
		if err := operator.RemoveStream(t.Context(), "booking"); !errors.Is(err, ErrDenied) {
			t.Errorf("without %s: got %v, want it denied", right, err)
		}
		if n, err := client.XLen(t.Context(), "booking").Result(); err != nil || n != 1 {
			t.Errorf("without %s: the stream has %d entries, %v", right, n, err)
		}
		if n := client.Exists(t.Context(), "{booking}:removed").Val(); n != 0 {
			t.Errorf("without %s: it is noted as removed", right)
		}
	}
}
