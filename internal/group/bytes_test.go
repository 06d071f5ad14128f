package group

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/rishi-platform/millrace/internal/memstream"
	"github.com/rishi-platform/millrace/internal/redisstream"
)

// noAnswers is a log that gets no answer when it takes something over or fetches it.
type noAnswers struct{ Log }

func (noAnswers) TakeOver(
	context.Context, redisstream.Consumer, string, redisstream.Peer, redisstream.Most,
) ([]redisstream.Delivered, error) {
	return nil, io.ErrUnexpectedEOF
}

func (noAnswers) Fetch(
	context.Context, redisstream.Consumer, string, []string, int,
) ([]redisstream.Delivered, error) {
	return nil, io.ErrUnexpectedEOF
}

func (noAnswers) Strangers(
	context.Context, redisstream.Consumer, string, time.Duration, redisstream.Most,
) ([]redisstream.Delivered, error) {
	return nil, io.ErrUnexpectedEOF
}

// What is taken over or fetched may be too large for the link as well: it is asked for again in pieces.
func TestG16WhatIsTakenIsAskedForInPieces(t *testing.T) {
	t.Parallel()
	for name, take := range map[string]func(*Consumer, *membership){
		"take-over": func(c *Consumer, m *membership) { c.takeFrom(m, redisstream.Peer{Name: "dead", Beat: 2}) },
		"fetch":     func(c *Consumer, m *membership) { c.fetch(m, []string{"booking.created"}) },
		"strangers": func(c *Consumer, m *membership) { c.claimFromStrangers(m) },
	} {
		c := newTestConsumer(t, noAnswers{memstream.New(1)})
		take(c, &membership{stream: "booking"})
		if most := c.budget.most(); most >= budgetMost {
			t.Errorf("%s: %d bytes are asked for again, want less than %d", name, most, budgetMost)
		}
	}
}
