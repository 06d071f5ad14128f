package pipeline

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/redistest"
)

// hangs handles the event "hung" until the end of the test, with a failure before where it asks for one.
func hangs(t *testing.T, b *Bus, p Policy, failFirst bool) (began chan *Delivery) {
	t.Helper()
	began, goOn := make(chan *Delivery, 1), make(chan struct{})
	p.Backoff = atOnce
	handle(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}, Policy: p}, AllStreams, func(_ context.Context, d *Delivery) error {
		if failFirst && d.Attempt == 1 {
			return errors.New("not yet")
		}
		began <- d
		<-goOn
		return nil
	})
	t.Cleanup(func() { close(goOn) })
	publish(t, b, Event{ID: "hung", Type: "booking.created"})
	return began
}

// makeOld has an entry look as if its consumer had held it for so long.
func makeOld(t *testing.T, client redis.UniversalClient, key, group, consumer, id string, idle time.Duration) {
	t.Helper()
	args := []any{"XCLAIM", key, group, consumer, 0, id, "IDLE", idle.Milliseconds(), "JUSTID"}
	if err := client.Do(t.Context(), args...).Err(); err != nil {
		t.Fatal(err)
	}
}

// A process that handles nothing itself finds in Redis what another one holds too long: in the stream and
// among what came again.
func TestG19UnsettledDeliveryOfAnotherProcess(t *testing.T) {
	t.Parallel()
	const almost, over = hungAfter - time.Minute, hungAfter + time.Minute
	hour := Policy{Timeout: time.Hour}
	for name, test := range map[string]struct {
		policy Policy
		lane   bool
		idle   time.Duration
		wants  bool
	}{
		"stream":               {idle: over, wants: true},
		"lane":                 {idle: over, lane: true, wants: true},
		"not yet":              {idle: almost},
		"within its timeout":   {policy: hour, idle: 2*time.Hour - time.Minute},
		"beyond twice timeout": {policy: hour, idle: 2*time.Hour + time.Minute, wants: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, namespace := redistest.Shared(t), redistest.Namespace(t)
			b := openBus(t, Config{Redis: server.Options(), Namespace: namespace})
			d := within(t, "the delivery", hangs(t, b, test.policy, test.lane))
			key := namespace + ":booking"
			if test.lane {
				key = "{" + namespace + ":booking}:lane:g"
			}
			makeOld(t, server.Client(t), key, "g", d.Consumer, d.holding.Ref().ID.String(), test.idle)
			asked := openBus(t, Config{Redis: server.Options(), Namespace: namespace})
			awaitFact(t, "what the consumer says of itself", func() bool {
				r, err := asked.Group(t.Context(), "booking", "g")
				if err == nil && (r.OldestUnackedSeconds == nil || *r.OldestUnackedSeconds < test.idle.Seconds()) {
					t.Fatalf("report %+v, want an age of %s", r, test.idle)
				}
				return err == nil && len(r.Members) == 1 && r.Members[0].Member != nil
			})
			got := problems(t, asked, "delivery-unsettled")
			if !test.wants {
				if len(got) > 0 {
					t.Errorf("problems %+v, want none", got)
				}
				return
			}
			if len(got) != 1 || got[0].Severity != SeverityError {
				t.Fatalf("problems %+v, want one", got)
			}
			for _, part := range []string{"stream booking", "group g ", d.Consumer, d.holding.Ref().ID.String()} {
				if !strings.Contains(got[0].Text, part) {
					t.Errorf("health says %q, without %q", got[0].Text, part)
				}
			}
			_, since, _ := strings.Cut(got[0].Text, " since ")
			since, _, _ = strings.Cut(since, ",")
			at, err := time.Parse(time.RFC3339, since)
			if age := time.Since(at); err != nil || (age-test.idle).Abs() > time.Minute {
				t.Errorf("health says %q, error %v, want it %s ago", got[0].Text, err, test.idle)
			}
		})
	}
}

// What other software holds has an age, and is no problem of ours: it does not say that it lives.
func TestG19ForeignConsumerMayHoldOn(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	b := openBus(t, Config{Redis: server.Options(), Namespace: namespace})
	publish(t, b, Event{Type: "booking.created"})
	client, key := server.Client(t), namespace+":booking"
	if err := client.XGroupCreate(t.Context(), key, "g", "0").Err(); err != nil {
		t.Fatal(err)
	}
	read, err := client.XReadGroup(t.Context(), &redis.XReadGroupArgs{Group: "g", Consumer: "other", Streams: []string{key, ">"}}).Result()
	if err != nil {
		t.Fatal(err)
	}
	makeOld(t, client, key, "g", "other", read[0].Messages[0].ID, time.Hour)
	h := b.Health(t.Context())
	age := h.Streams[0].Groups[0].OldestUnackedSeconds
	if age == nil || *age < time.Hour.Seconds() || hasProblem(h, "delivery-unsettled") {
		t.Errorf("age %v, problems %+v, want an hour and no problem of that", age, h.Problems)
	}
}

// What waits for the end of a pause is no problem, but that of the pause itself.
func TestG19UnsettledWhilePaused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := openBus(t, Config{})
		messages, err := b.Subscriber(GroupConfig{Group: "g", Patterns: []string{"booking.*"}}).Subscribe(t.Context(), AllStreams)
		if err != nil {
			t.Fatal(err)
		}
		publish(t, b, Event{ID: "held", Type: "booking.created"})
		time.Sleep(hungAfter + time.Second) // of the bubble's time
		if got := problems(t, b, "delivery-unsettled"); len(got) != 1 {
			t.Errorf("problems %+v, want one: nobody takes the delivery", got)
		}
		if _, err := b.PauseGroup(t.Context(), "booking", "g", "maintenance"); err != nil {
			t.Fatal(err)
		}
		if got := problems(t, b, "delivery-unsettled"); len(got) != 0 {
			t.Errorf("problems %+v, want none in a pause", got)
		}
		(<-messages).Ack()
	})
}
