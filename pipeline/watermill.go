package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/rishi-platform/millrace/internal/group"
	"github.com/rishi-platform/millrace/internal/wire"
)

// Publisher is the bus as a Watermill publisher. A topic is the name of a stream; the type of the event is the metadata
// "type" where that is a type of the stream, else the topic itself. Metadata with the keys of the wire format becomes the fields of the
// event, the rest its headers; what earlier deliveries left in it ("millrace_…") is dropped. Closing it closes nothing: the bus is
// closed by whoever opened it.
func (b *Bus) Publisher() message.Publisher { return publisher{b} }

type publisher struct{ bus *Bus }

// Publish publishes each message with its own context; all must be valid or none is published.
func (p publisher) Publish(topic string, messages ...*message.Message) error {
	if err := CheckStream(topic); err != nil {
		return fmt.Errorf("topic %q %w", topic, err)
	}
	if len(messages) == 0 {
		return nil
	}
	events := make([]Event, len(messages))
	for i, m := range messages {
		events[i] = eventOf(topic, m)
	}
	_, err := p.bus.Publish(messages[0].Context(), events...)
	return err
}

func (p publisher) Close() error { return nil }

// eventOf reads the metadata as that of an entry is read.
func eventOf(topic string, m *message.Message) Event {
	d := wire.Decoded{Event: wire.Event{ID: m.UUID, Data: m.Payload}}
	for key, value := range m.Metadata {
		if !strings.HasPrefix(key, wire.PrefixWatermill) {
			_ = d.Set(key, value) // it never fails
		}
	}
	if CheckType(d.Type) != nil || StreamOf(d.Type) != topic {
		d.Type = topic
	}
	if d.ContentType == "" && jsonFault(d.Data) != "" {
		d.ContentType = contentTypeBytes
	}
	if d.CorrelationID == "" {
		d.CorrelationID = CorrelationID(m.Context())
	}
	if d.CausationID == "" {
		d.CausationID = causationID(m.Context())
	}
	return Event(d.Event)
}

// Subscriber is one instance of a consumer group as a Watermill subscriber. Each Subscribe is a consumer of its own. A topic is the name
// of a stream, or AllStreams. Ack settles a delivery as handled, Nack as failed. CurrentDelivery(msg.Context()) tells more about it.
func (b *Bus) Subscriber(g GroupConfig) message.Subscriber { return &subscriber{bus: b, cfg: g} }

type subscriber struct {
	bus *Bus
	cfg GroupConfig

	mu        sync.Mutex // guards what follows
	closed    bool
	consumers []*group.Consumer
}

// Subscribe joins the group. When ctx ends the consumer drains: no new message comes, the ctx of those in flight lives on until the drain
// deadline.
func (s *subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	if err := s.check(topic); err != nil {
		return nil, err
	}
	if s.isClosed() {
		return nil, errSubscriberClosed
	}
	o, err := s.bus.consume(ctx, s.cfg, topic)
	if err != nil {
		return nil, err
	}
	if !s.adopt(o.consumer) {
		o.consumer.Close()
		return nil, errSubscriberClosed
	}
	return o.out, nil
}

var errSubscriberClosed = errors.New("subscriber is closed")

func (s *subscriber) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// adopt enters a consumer, which Close will close; false when it comes too late.
func (s *subscriber) adopt(c *group.Consumer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.consumers = slices.DeleteFunc(s.consumers, (*group.Consumer).IsClosed)
	s.consumers = append(s.consumers, c)
	return true
}

func (s *subscriber) check(topic string) error {
	var faults []error
	if err := CheckName(s.cfg.Group); err != nil {
		faults = append(faults, fmt.Errorf("group %w", err))
	}
	for _, p := range s.cfg.Patterns {
		if err := CheckPattern(p); err != nil {
			faults = append(faults, fmt.Errorf("pattern %q %w", p, err))
		}
	}
	if s.cfg.InFlight < 0 {
		faults = append(faults, errors.New("InFlight is negative"))
	}
	if s.cfg.From != "" {
		if _, err := ParsePosition(string(s.cfg.From)); err != nil {
			faults = append(faults, err)
		}
	}
	if topic == AllStreams && len(s.cfg.Patterns) == 0 {
		faults = append(faults, errors.New("all streams need patterns"))
	} else if topic != AllStreams {
		if err := CheckStream(topic); err != nil {
			faults = append(faults, fmt.Errorf("topic %q %w", topic, err))
		}
	}
	return errors.Join(faults...)
}

// SubscribeInitialize joins the group and leaves it again: from then on the group keeps what it has not handled.
func (s *subscriber) SubscribeInitialize(topic string) error {
	if err := s.check(topic); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	joined, err := s.bus.initializeGroup(ctx, s.cfg, topic)
	if err == nil && joined == 0 {
		err = s.bus.link.unavailable("join group " + s.cfg.Group)
	}
	return err
}

// Close drains the consumers and closes nothing else.
func (s *subscriber) Close() error {
	s.mu.Lock()
	s.closed = true
	consumers := s.consumers
	s.mu.Unlock()
	var draining sync.WaitGroup
	for _, c := range consumers {
		draining.Go(c.Close)
	}
	draining.Wait()
	return nil
}
