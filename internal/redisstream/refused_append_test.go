package redisstream

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/redistest"
)

// Whatever one right a publisher lacks, and whatever an append has to do on the way: what is refused is not stored. The rights are those that
// the scripts use, so that one which comes to use another command is tried without it.
func TestP14WhatIsRefusedIsNotStored(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	admin := server.Client(t)
	for _, kind := range slices.Sorted(maps.Keys(appendsOf)) {
		script := map[string]string{"append": "append", "once": "append_once", "drain": "drain"}[kind]
		for _, command := range commandsOf(script) {
			for _, state := range []string{"new", "known", "full", "full-new"} {
				namespace := strings.Join([]string{kind, command, state}, "-")
				full := New(Config{Redis: server.Options(), Namespace: namespace, MaxLen: 1000})
				t.Cleanup(func() { _ = full.Close() })
				appended := appendsOf[kind]
				sequence := uint64(1)
				if state == "known" || state == "full" {
					if err := appended(t.Context(), full, 1, messagesOf(1, 10)); err != nil {
						t.Fatal(err)
					}
					sequence = 2
				}
				// What an append comes upon: a stream beyond its limit with a group of ours, more old marks than it looks at, keys that are over,
				// and more keys than there is room for.
				limit := int64(1000)
				if strings.HasPrefix(state, "full") {
					limit = 100
					join(t, full, Consumer{Group: "g", Name: "c"})
					clutter(t, admin, full)
				}
				less := New(Config{Redis: userWithout(t, server, "-"+strings.ToLower(command)), Namespace: namespace, MaxLen: limit})
				t.Cleanup(func() { _ = less.Close() })
				before := stateOf(t, admin, full)
				err := appended(t.Context(), less, sequence, messagesOf(3, 10))
				after := stateOf(t, admin, full)
				switch {
				case err == nil:
					if after.added != before.added+3 {
						t.Errorf("%s: accepted, and %d are stored", namespace, after.added-before.added)
					}
				case Classify(err) != Denied || !NotSent(err):
					t.Errorf("%s: %v is no refusal", namespace, err)
				case after.added != before.added || after.lost != after.trimmed-before.trimmed:
					t.Errorf("%s: refused with %v, before %+v, after %+v", namespace, err, before, after)
				}
				if err != nil { // the right is given back
					if err := appended(t.Context(), full, sequence, messagesOf(3, 10)); err != nil {
						t.Errorf("%s: with all rights: %v", namespace, err)
					}
				}
			}
		}
	}
}

var called = regexp.MustCompile(`redis\.call\('([A-Z]+)'`)

// commandsOf names the commands that a script uses.
func commandsOf(script string) []string {
	commands := map[string]bool{}
	for _, match := range called.FindAllStringSubmatch(source(script), -1) {
		commands[match[1]] = true
	}
	return slices.Sorted(maps.Keys(commands))
}

// clutter makes a stream longer than the limit of those who lack a right, and leaves old marks and keys that are over.
func clutter(t *testing.T, admin redis.UniversalClient, c *Client) {
	t.Helper()
	ctx := t.Context()
	_, err := admin.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := range 400 {
			p.XAdd(ctx, &redis.XAddArgs{Stream: c.streamKey("booking"), Values: []string{FieldUUID, fmt.Sprint(i)}})
		}
		p.HSet(ctx, c.writersKey("booking"), "old", "1 1-0")
		p.ZAdd(ctx, c.seenKey("booking"), redis.Z{Score: 1, Member: "over"})
		p.HSet(ctx, c.seenWhatKey("booking"), "over", "1-0\x00u\x00\x00w 1 5")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// appendState is what a refused append must leave as it is.
type appendState struct{ added, trimmed, lost int64 }

func stateOf(t *testing.T, admin redis.UniversalClient, c *Client) appendState {
	t.Helper()
	info, err := c.Info(t.Context(), "booking")
	if err != nil {
		t.Fatal(err)
	}
	lost, err := admin.HGet(t.Context(), c.metaKey("booking"), "lost:g").Int64()
	if err != nil && err != redis.Nil {
		t.Fatal(err)
	}
	return appendState{added: info.EntriesAdded, trimmed: info.EntriesAdded - info.Length, lost: lost}
}
