package pipeline

import "sync/atomic"

// counters counts the events that this instance published, by durability.
type counters struct{ n [Replicated + 1]atomic.Uint64 }

func (c *counters) add(d Durability, n int) { c.n[d].Add(uint64(n)) }

func (c *counters) health() PublishedHealth {
	h := PublishedHealth{
		Stored:   c.n[Stored].Load() + c.n[Replicated].Load(),
		Spooled:  c.n[Spooled].Load(),
		Volatile: c.n[Volatile].Load(),
		Refused:  c.n[Refused].Load() + c.n[Unknown].Load(),
	}
	h.Total = h.Stored + h.Spooled + h.Volatile + h.Refused
	return h
}
