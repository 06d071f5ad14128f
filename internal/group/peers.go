package group

import (
	"slices"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// peerWatch decides which peers of a group are dead. A consumer promises with each beat when the next
// one comes. A peer counts as dead when its beat has not moved until lateAfter behind that time, while
// our beats were answered in time by one and the same run of the server, for deadAfter at least. So a
// stall, a restart or a failover delays taking over instead of starting it.
type peerWatch struct {
	run   string    // of the server
	calm  time.Time // since when our beats have been answered in time
	peers map[string]peerSeen
}

// peerSeen is the last beat of a peer that was seen.
type peerSeen struct {
	beat  int64
	since time.Time     // it was seen first
	due   time.Duration // in which the next one was due then
}

const (
	// deadAfter is three beats.
	deadAfter = 3 * beatEvery
	// lateAfter is how late a beat is when it is given up: two have failed by then.
	lateAfter = deadAfter - beatEvery
	// beatTimeout is how soon a beat must be answered to count as in time.
	beatTimeout = time.Second
)

// disturbed notes that a beat was not answered in time.
func (w *peerWatch) disturbed() { w.calm = time.Time{} }

// dead notes a beat that was answered and returns the peers whose deliveries may be taken over.
func (w *peerWatch) dead(b redisstream.Beat, now time.Time) []redisstream.Peer {
	if w.calm.IsZero() || w.run != b.Run {
		w.calm, w.run = now, b.Run
	}
	seen := make(map[string]peerSeen, len(b.Peers))
	var dead []redisstream.Peer
	for _, p := range b.Peers {
		s, known := w.peers[p.Name]
		if !known || s.beat != p.Beat {
			// The server's clock may be another one's after a failover: what it says counts within reason.
			s = peerSeen{beat: p.Beat, since: now, due: min(max(p.Due, 0), restMost)}
		}
		seen[p.Name] = s
		gone := now.Sub(s.since) >= s.due+lateAfter && now.Sub(w.calm) >= deadAfter
		if p.Beat == redisstream.Left || gone {
			dead = append(dead, p)
		}
	}
	w.peers = seen
	return dead
}

// living names the peers that are not dead and have not left.
func living(peers, dead []redisstream.Peer) (names []string) {
	for _, p := range peers {
		if !slices.Contains(dead, p) {
			names = append(names, p.Name)
		}
	}
	return names
}
