package main

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/ThreeDotsLabs/watermill-redisstream/pkg/redisstream"
	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/loadgen"
	"github.com/rishi-platform/millrace/pipeline"
)

// TestPeersCarryWhatMillraceWrites reads an entry of Millrace and compares its metadata with what the others are given: a system must
// not win by having less to carry.
func TestPeersCarryWhatMillraceWrites(t *testing.T) {
	t.Parallel()
	server, err := startServer(t.Context(), Case{System: systemMillrace}, filepath.Join(t.TempDir(), "server"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.stop)
	options := &redis.UniversalOptions{Addrs: []string{server.addr}}
	bus, err := pipeline.Open(t.Context(), pipeline.Config{Redis: options, Service: service, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := bus.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if _, err := loadgen.Publish(t.Context(), bus, loadgen.Config{Type: eventType, Events: 1}); err != nil {
		t.Fatal(err)
	}
	client := redis.NewUniversalClient(options)
	t.Cleanup(func() { _ = client.Close() })
	entries, err := client.XRange(t.Context(), stream, "-", "+").Result()
	if err != nil || len(entries) != 1 {
		t.Fatalf("got %d entries, %v, want 1", len(entries), err)
	}
	written, err := redisstream.DefaultMarshallerUnmarshaller{}.Unmarshal(entries[0].Values)
	if err != nil {
		t.Fatal(err)
	}
	lengths := func(metadata map[string]string) map[string]int {
		lengths := map[string]int{}
		for key, value := range metadata {
			lengths[key] = len(value)
		}
		lengths["time"] = 0 // has no zeros at its end
		return lengths
	}
	if diff := cmp.Diff(lengths(written.Metadata), lengths(watermillMetadata())); diff != "" {
		t.Errorf("-written by millrace +carried by the others:\n%s", diff)
	}

	// What the raw client writes has to be what its bytes are taken for.
	packed := map[string]any{redisstream.UUIDHeaderKey: "x", "metadata": string(msgpackMetadata()), "payload": ""}
	raw, err := redisstream.DefaultMarshallerUnmarshaller{}.Unmarshal(packed)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(watermillMetadata(), raw.Metadata); diff != "" {
		t.Errorf("-carried by the others +packed by the raw client:\n%s", diff)
	}
}
