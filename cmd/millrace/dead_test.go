package main

import (
	"context"
	"slices"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"github.com/rishi-platform/millrace/internal/redistest"
	"github.com/rishi-platform/millrace/pipeline"
)

// A worker that gives up at once buries what requeue gives back while requeue still reads on; following that would never end.
func TestChangesOnlyWhatWasDeadWhenItBegan(t *testing.T) {
	t.Parallel()
	const letters = 2*deadPage + 20
	server := redistest.Start(t)
	client := server.Client(t)
	bury := func(n int) (ids []pipeline.Position) {
		pipe := client.Pipeline()
		for range n {
			pipe.XAdd(t.Context(), &redis.XAddArgs{Stream: "{task}:dead:failing", Values: []string{"_watermill_message_uuid", "e", "metadata", "", "payload", "1"}})
		}
		added, err := pipe.Exec(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range added {
			ids = append(ids, pipeline.Position(a.(*redis.StringCmd).Val()))
		}
		return ids
	}
	for name, query := range map[string]pipeline.DeadQuery{
		"all":      {Stream: "task", Group: "failing"},
		"filtered": {Stream: "task", Group: "failing", Types: []string{"task"}},
	} {
		want := bury(letters)
		d := &deadVerb{options: &options{redis: server.URL()}, query: query}
		cmd := &cobra.Command{}
		d.addRedisFlags(cmd.Flags())
		if err := cmd.Flags().Set("redis", server.URL()); err != nil {
			t.Fatal(err)
		}
		cmd.SetContext(t.Context())
		bus, err := d.changing(t.Context(), cmd)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closeBus(bus) })
		var got []pipeline.Position
		n, err := d.each(cmd, bus, nil, func(_ context.Context, _ *pipeline.Bus, _, _ string, at []pipeline.Position) (int, error) {
			if got = append(got, at...); len(got) > letters {
				t.Fatalf("%s: %d dead letters changed, want the %d there were", name, len(got), letters)
			}
			bury(len(at))
			return len(at), nil
		})
		if err != nil || n != letters || !slices.Equal(got, want) {
			t.Errorf("%s: got %d changed, %v; want the %d there were, once each", name, n, err, letters)
		}
		if err := client.Del(t.Context(), "{task}:dead:failing").Err(); err != nil {
			t.Fatal(err)
		}
	}
}
