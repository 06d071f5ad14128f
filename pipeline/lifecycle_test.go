package pipeline

import (
	"context"
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/rishi-platform/millrace/internal/redistest"
)

// Those who watch learn that a service has started and that it stops, also where Redis was away at its start.
func TestServiceTellsOfItsLife(t *testing.T) {
	t.Parallel()
	server := alwaysServer(t)
	watcher := openBus(t, Config{Redis: server.Options()})
	server.Kill(t)
	b, err := Open(t.Context(), Config{Redis: server.Options(), Announce: true, Service: "shop", Version: "1.2"})
	if err != nil {
		t.Fatal(err)
	}
	server.StartAgain(t)
	told := func() (all []Record) { return records(t, watcher, Query{Patterns: []string{"system.service.*"}}) }
	awaitState(t, watcher, StateDurable)
	awaitFact(t, "the start", func() bool { return len(told()) == 1 })
	if err := b.Close(context.Background()); err != nil {
		t.Error(err)
	}
	all := told()
	if len(all) != 2 || all[0].Event.Type != "system.service.started" || all[1].Event.Type != "system.service.stopping" {
		t.Fatalf("told of %+v", all)
	}
	for _, r := range all {
		var about struct {
			Service, Instance, Version string
			Mode                       Mode
			PID                        int
		}
		if err := json.Unmarshal(r.Event.Data, &about); err != nil {
			t.Fatal(err)
		}
		if about.Service != "shop" || about.Instance != b.instance || about.Version != "1.2" || about.Mode != ModeHybrid || about.PID != os.Getpid() || r.Event.Source != "shop" || r.Event.Subject != b.instance || r.Event.Time.IsZero() {
			t.Errorf("%s: %s of %s", r.Event.Type, r.Event.Data, r.Event.Source)
		}
	}
}

// A stop does not wait for a Redis that is away.
func TestServiceThatStopsWithoutRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	b, err := Open(t.Context(), Config{Redis: server.Options(), Announce: true})
	if err != nil {
		t.Fatal(err)
	}
	server.Kill(t)
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second) // OutageAfter and the timeouts of dialling are far below
	defer cancel()
	if err := b.Close(ctx); err != nil {
		t.Error(err)
	}
}
