package pipeline

import (
	"testing"
	"time"
)

// A check that had to connect, or met a server at work, does not make the server a distant one.
func TestG16ShortestRoundTripCounts(t *testing.T) {
	t.Parallel()
	var trips roundTrips
	for _, trip := range []time.Duration{4 * time.Millisecond, 90 * time.Microsecond, 2 * time.Millisecond} {
		trips.add(trip)
	}
	if got := trips.shortest(); got != 90*time.Microsecond {
		t.Errorf("a near server is %v away", got)
	}
	for range trips.last {
		trips.add(2 * time.Millisecond)
	}
	if got := trips.shortest(); got != 2*time.Millisecond {
		t.Errorf("a far server is %v away, since another one was", got)
	}
}
