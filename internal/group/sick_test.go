package group

import (
	"testing"
	"time"
)

// It was not alone: where the group is paused for the same reason, that takes the place of the own stop.
func TestG09PauseOfTheGroupTakesThePlaceOfTheOwnStop(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	why := Pause{By: PausedByBreaker, Consumer: "me", Fingerprint: "refused"}
	for name, test := range map[string]struct {
		by   Pause
		want bool
	}{
		"the same reason": {Pause{By: PausedByBreaker, Consumer: "peer", Fingerprint: "refused"}, true},
		"another reason":  {Pause{By: PausedByBreaker, Consumer: "peer", Fingerprint: "timeout"}, false},
		"an operator":     {Pause{By: PausedByOperator}, false},
	} {
		var w holdings
		w.init(1, false, nobody{}.New)
		w.own.self = "me"
		w.stop(why, now)
		if got := w.replaceStop(&test.by, now); got != test.want || w.own.isPaused() == test.want {
			t.Errorf("%s: replaced: %v, stopped: %v", name, got, w.own.isPaused())
		}
	}
}
