package pipeline

import (
	"context"
	"errors"
	"net"
	"slices"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/redistest"
)

// Whoever only looks needs no right to write, and no server that takes writes.
func TestP18ReadersNeedNoWrite(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(t *testing.T, server *redistest.Server, admin redis.UniversalClient) *redis.UniversalOptions{
		"rights to read": func(t *testing.T, server *redistest.Server, admin redis.UniversalClient) *redis.UniversalOptions {
			return userWith(t, server, "+@read", "+eval_ro")
		},
		"replica": func(t *testing.T, server *redistest.Server, _ redis.UniversalClient) *redis.UniversalOptions {
			replica := redistest.Start(t)
			host, port, _ := net.SplitHostPort(server.Addr())
			client := replica.Client(t)
			if err := client.Do(t.Context(), "REPLICAOF", host, port).Err(); err != nil {
				t.Fatal(err)
			}
			awaitFact(t, "the replica to have what there is", func() bool {
				return client.Exists(t.Context(), "booking", "{booking}:dead:billing").Val() == 2
			})
			return replica.Options()
		},
		"out of memory": func(t *testing.T, server *redistest.Server, admin redis.UniversalClient) *redis.UniversalOptions {
			return configured(t, server, admin, "maxmemory", "1")
		},
		"too few replicas": func(t *testing.T, server *redistest.Server, admin redis.UniversalClient) *redis.UniversalOptions {
			return configured(t, server, admin, "min-replicas-to-write", "1")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			writer := openBus(t, Config{Redis: server.Options()})
			group := consume(t, writer, GroupConfig{Group: "billing", Patterns: []string{"booking.*"}}, "booking", func(_ *message.Message, d *Delivery) {
				d.Settle(&PermanentError{Err: errors.New("no")})
			})
			publish(t, writer, Event{ID: "e-1", Type: "booking.created"})
			awaitFact(t, "a dead letter", func() bool { return len(deadLetters(t, writer, "booking", "billing")) == 1 })
			_ = group.Close()
			closeBus(t, writer)

			b := openBus(t, Config{Redis: prepare(t, server, server.Client(t)), RedisOnly: true, NoPublish: true})
			if err := b.Ready(); err != nil {
				t.Errorf("not ready: %v", err)
			}
			if got := ids(records(t, b, Query{})); !slices.Equal(got, []string{"e-1"}) {
				t.Errorf("history: %v", got)
			}
			if got := deadLetters(t, b, "booking", "billing"); len(got) != 1 {
				t.Errorf("%d dead letters", len(got))
			}
			if r, err := b.Group(t.Context(), "booking", "billing"); err != nil || r.Dead != 1 {
				t.Errorf("group: %+v, %v", r, err)
			}
			heard := make(chan string, 1)
			if _, err := b.Subscribe(t.Context(), Subscription{Patterns: []string{"**"}, From: Oldest}, func(_ context.Context, e Event) error {
				heard <- e.ID
				return nil
			}); err != nil || <-heard != "e-1" {
				t.Errorf("subscribe: %v", err)
			}
			h := b.Health(t.Context())
			if len(h.Streams) != 1 || len(h.Streams[0].Groups) != 1 || hasProblem(h, "streams-unknown") {
				t.Errorf("health: %+v", h)
			}
			code, status := "redis-unavailable", StatusUnhealthy
			switch name {
			case "rights to read":
				code, status = "publish-unknown", StatusDegraded // by its dead letter
			case "out of memory":
				code = problemRefused
			}
			if !hasProblem(h, code) || h.Status != status {
				t.Errorf("status %s, problems %v; want %s", h.Status, h.Problems, code)
			}
			if _, err := b.Publish(t.Context(), Event{Type: "booking.created"}); !errors.Is(err, ErrInvalid) {
				t.Errorf("publish: %v", err)
			}
			if _, err := b.Subscriber(GroupConfig{Group: "g", Patterns: []string{"booking.*"}}).Subscribe(t.Context(), "booking"); !errors.Is(err, ErrInvalid) {
				t.Errorf("consume: %v", err)
			}
		})
	}
}

// userWith makes a user that has those rights alone, and returns how it connects.
func userWith(t *testing.T, server *redistest.Server, rights ...any) *redis.UniversalOptions {
	t.Helper()
	args := append([]any{"ACL", "SETUSER", "reader", "on", ">secret", "~*"}, rights...)
	if err := server.Client(t).Do(t.Context(), args...).Err(); err != nil {
		t.Fatal(err)
	}
	options := server.Options()
	options.Username, options.Password = "reader", "secret"
	return options
}

// configured sets a setting of the server.
func configured(t *testing.T, server *redistest.Server, admin redis.UniversalClient, name, value string) *redis.UniversalOptions {
	t.Helper()
	if err := admin.ConfigSet(t.Context(), name, value).Err(); err != nil {
		t.Fatal(err)
	}
	return server.Options()
}
