package main

import (
	"math"
	"testing"
)

func TestMedian(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{7}, 7},
		{[]float64{3, 1, 2}, 2},
		{[]float64{4, 1, 3, 2}, 2.5},
		{[]float64{1, 1, 1000}, 1},
	} {
		if got := median(test.values); got != test.want {
			t.Errorf("median of %v: got %v, want %v", test.values, got, test.want)
		}
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("median of nothing: got %v, want NaN", got)
	}
}

// TestRatioIsOfTheSameRound has a machine that is ten times slower in the second round and very slow in the third: the ratio of the
// medians would be 0.2, and no round saw that.
func TestRatioIsOfTheSameRound(t *testing.T) {
	t.Parallel()
	r := results{
		"ours":  {{perSecond: 50}, {perSecond: 5}, {perSecond: 200}},
		"limit": {{perSecond: 100}, {perSecond: 10}, {perSecond: 400}},
	}
	if got := r.ratio("ours", "limit", perSecond); got != 0.5 {
		t.Errorf("got %v, want 0.5", got)
	}
	r["limit"][0] = nil // a run that failed
	if got := r.ratio("ours", "limit", perSecond); got != 0.5 {
		t.Errorf("without one of the rounds: got %v, want 0.5", got)
	}
	for name, ratio := range map[string]float64{
		"of a case that was not run":       r.ratio("others", "limit", perSecond),
		"to a case that was not run":       r.ratio("ours", "", perSecond),
		"of a measure that was not taken":  r.ratio("ours", "limit", p50),
		"where one was in the first round": medianRatio([]sample{{p50: 1}}, []sample{nil, {p50: 1}}, p50),
	} {
		if !math.IsNaN(ratio) {
			t.Errorf("%s: got %v, want NaN", name, ratio)
		}
	}
}

func TestThousands(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]string{0: "0", 999.4: "999", 1000: "1,000", 265_000: "265,000", 1234567: "1,234,567", -4321: "-4,321"} {
		if got := thousands(v); got != want {
			t.Errorf("%v: got %s, want %s", v, got, want)
		}
	}
}
