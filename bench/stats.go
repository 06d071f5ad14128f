package main

import (
	"math"
	"slices"
	"strconv"
)

// median returns the middle of the values, the mean of the two in the middle where their number is even, NaN of none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// values returns one measure of every round in which it was taken.
func (r results) values(name, key string) []float64 {
	var values []float64
	for _, s := range r[name] {
		if v, ok := s[key]; ok {
			values = append(values, v)
		}
	}
	return values
}

// ratio returns the median of the ratios of each round: two values that were taken at about the same time are compared, so that a
// machine which others use as well does not decide. NaN where no round has both.
func (r results) ratio(name, to, key string) float64 { return medianRatio(r[name], r[to], key) }

func medianRatio(of, to []sample, key string) float64 {
	var ratios []float64
	for round := range min(len(of), len(to)) {
		a, ok := of[round][key]
		b, okToo := to[round][key]
		if ok && okToo && b != 0 {
			ratios = append(ratios, a/b)
		}
	}
	return median(ratios)
}

// thousands writes a whole number with separators: 12,345.
func thousands(v float64) string {
	digits := strconv.FormatFloat(math.Abs(v), 'f', 0, 64)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	if v < 0 {
		return "-" + digits
	}
	return digits
}
