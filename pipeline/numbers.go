package pipeline

import (
	"cmp"
	"slices"
)

// numbers is a set of numbers that come about in their order: it holds the ranges that they make up, the lowest first.
type numbers struct{ ranges []numberRange }

type numberRange struct{ from, to uint64 } // both included

// has reports whether the number is in the set.
func (n *numbers) has(number uint64) bool {
	i := n.behind(number)
	return i > 0 && number <= n.ranges[i-1].to
}

// behind returns the index of the first range that begins behind a number.
func (n *numbers) behind(number uint64) int {
	i, found := slices.BinarySearchFunc(n.ranges, number, func(r numberRange, number uint64) int { return cmp.Compare(r.from, number) })
	if found {
		i++
	}
	return i
}

// forget removes all numbers up to one.
func (n *numbers) forget(upTo uint64) {
	i := 0
	for i < len(n.ranges) && n.ranges[i].to <= upTo {
		i++
	}
	n.ranges = slices.Delete(n.ranges, 0, i)
	if len(n.ranges) > 0 {
		n.ranges[0].from = max(n.ranges[0].from, upTo+1)
	}
}

// add reports whether the number is new.
func (n *numbers) add(number uint64) bool {
	i := n.behind(number)
	if i > 0 && number <= n.ranges[i-1].to {
		return false
	}
	before, behind := i > 0 && n.ranges[i-1].to+1 == number, i < len(n.ranges) && number+1 == n.ranges[i].from
	switch {
	case before && behind:
		n.ranges[i-1].to = n.ranges[i].to
		n.ranges = slices.Delete(n.ranges, i, i+1)
	case before:
		n.ranges[i-1].to = number
	case behind:
		n.ranges[i].from = number
	default:
		n.ranges = slices.Insert(n.ranges, i, numberRange{number, number})
	}
	return true
}
