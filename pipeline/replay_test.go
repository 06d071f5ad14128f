package pipeline

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

func TestReplayReachesOneGroupAlone(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		var positions []Position
		for i := range 250 {
			r := publish(t, b, Event{ID: fmt.Sprintf("e%03d", i), Type: []string{"booking.even", "booking.odd"}[i%2], CorrelationID: fmt.Sprint("c-", i%10)})
			positions = append(positions, r.Outcomes[0].Position)
		}
		got, others := make(chan *Delivery, 1000), newTally()
		first := newTally()
		handle(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}}, AllStreams, func(_ context.Context, d *Delivery) error {
			if d.Origin == OriginFresh {
				first.add(d.Event.ID)
			} else {
				got <- d
			}
			return nil
		})
		handle(t, b, GroupConfig{Group: "h", Patterns: []string{"booking.*"}}, AllStreams, func(_ context.Context, d *Delivery) error { others.add(d.Event.ID); return nil })
		first.await(t, 250)
		others.await(t, 250)

		for name, test := range map[string]struct {
			query Query
			want  int
		}{
			"all":         {Query{}, 250},
			"type":        {Query{Patterns: []string{"booking.odd"}}, 125},
			"correlation": {Query{CorrelationID: "c-4"}, 25},
			"behind":      {Query{After: positions[199]}, 50},
			"time":        {Query{Until: time.Now().Add(-time.Hour)}, 0},
		} {
			test.query.Streams = []string{"booking"}
			if n, err := b.Replay(t.Context(), test.query, "g", ReplayOptions{DryRun: true}); n != test.want || err != nil {
				t.Errorf("%s: dry run gives %d, %v, want %d", name, n, err, test.want)
			}
			progress := 0
			n, err := b.Replay(t.Context(), test.query, "g", ReplayOptions{Progress: func(events int) { progress = events }})
			if n != test.want || err != nil || progress != test.want {
				t.Errorf("%s: gives %d (%d), %v, want %d", name, n, progress, err, test.want)
			}
			for range test.want {
				d := within(t, name+": a replayed event", got)
				if d.Origin != OriginReplay || d.Attempt != 1 || d.Position != positions[number(d.Event.ID)] {
					t.Fatalf("%s: %+v", name, d)
				}
			}
		}
		awaitSettled(t, b, "booking", "g")
		if len(got) != 0 || len(others.more()) != 0 || len(first.more()) != 0 {
			t.Errorf("%d more than asked for; another group got %v again", len(got), others.more())
		}

		started := time.Now()
		if n, err := b.Replay(t.Context(), Query{Streams: []string{"booking"}, Limit: 30}, "g", ReplayOptions{Rate: 100}); n != 30 || err != nil {
			t.Errorf("at a rate: %d, %v", n, err)
		}
		if took := time.Since(started); took < 200*time.Millisecond {
			t.Errorf("30 events at 100 per second took %v", took)
		}
		if _, err := b.Replay(t.Context(), Query{Streams: []string{"booking"}}, "nobody", ReplayOptions{}); !errors.Is(err, ErrUnknownGroup) {
			t.Errorf("unknown group: %v", err)
		}
	})
}

func number(id string) (n int) {
	_, _ = fmt.Sscanf(id, "e%d", &n)
	return n
}
