package group

import (
	"testing"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// A peer is dead when its beat has not moved while three beats of ours were answered in time by one run of the server. Whatever stalls us or the
// server delays it.
func TestF20WhoIsDead(t *testing.T) {
	t.Parallel()
	beat := func(of int64, run string, due time.Duration) redisstream.Beat {
		return redisstream.Beat{Run: run, Peers: []redisstream.Peer{{Name: "peer", Beat: of, Due: due}}}
	}
	type step struct {
		at    time.Duration
		beat  int64 // of the peer; negative: ours was not answered in time
		run   string
		stale bool // the peer is found dead
	}
	for name, steps := range map[string][]step{
		"it beats":             {{0, 1, "a", false}, {4 * time.Second, 2, "a", false}, {8 * time.Second, 3, "a", false}, {12 * time.Second, 4, "a", false}},
		"it stopped":           {{0, 1, "a", false}, {2 * time.Second, 1, "a", false}, {4 * time.Second, 1, "a", false}, {6 * time.Second, 1, "a", true}},
		"it left":              {{0, redisstream.Left, "a", true}},
		"we were stalled":      {{0, 1, "a", false}, {4 * time.Second, -1, "a", false}, {20 * time.Second, 1, "a", false}, {25 * time.Second, 1, "a", false}, {26 * time.Second, 1, "a", true}},
		"the server restarted": {{0, 1, "a", false}, {5 * time.Second, 1, "b", false}, {10 * time.Second, 1, "b", false}, {11 * time.Second, 1, "b", true}},
		"it came back":         {{0, 1, "a", false}, {5 * time.Second, 1, "a", false}, {7 * time.Second, 2, "a", false}, {12 * time.Second, 2, "a", false}, {13 * time.Second, 2, "a", true}},
		"it rests":             {{0, 1, "a", false}, {18 * time.Second, 1, "a", false}, {19 * time.Second, 1, "a", true}},
		"it was late":          {{0, 2, "a", false}, {6 * time.Second, 1, "a", false}, {9 * time.Second, 1, "a", false}, {10 * time.Second, 1, "a", true}},
		"its clock is wrong":   {{0, 1, "a", false}, {18 * time.Second, 1, "a", false}, {19 * time.Second, 1, "a", true}},
	} {
		var w peerWatch
		begin := time.Unix(1_800_000_000, 0)
		due := beatEvery
		switch name {
		case "it rests":
			due = restMost
		case "it was late":
			due = -time.Minute
		case "its clock is wrong":
			due = time.Hour
		}
		for i, s := range steps {
			if s.beat < 0 {
				w.disturbed()
				continue
			}
			if dead := w.dead(beat(s.beat, s.run, due), begin.Add(s.at)); (len(dead) > 0) != s.stale {
				t.Errorf("%s: step %d: dead %v, want %v", name, i, dead, s.stale)
			}
		}
	}
}
