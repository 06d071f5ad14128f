package pipeline

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// oddAnswers is a transport each of whose answers with deliveries that were taken or fetched has
// something in it that can't be read.
type oddAnswers struct {
	transport
	stranger atomic.Bool // there is a delivery of other software
}

var errOdd = errors.New("malformed reply")

func (o *oddAnswers) TakeOver(
	ctx context.Context, c redisstream.Consumer, stream string, p redisstream.Peer, most redisstream.Most,
) ([]redisstream.Delivered, error) {
	taken, _ := o.transport.TakeOver(ctx, c, stream, p, most)
	return taken, errOdd
}

func (o *oddAnswers) Fetch(
	ctx context.Context, c redisstream.Consumer, stream string, types []string, count int,
) ([]redisstream.Delivered, error) {
	fetched, _ := o.transport.Fetch(ctx, c, stream, types, count)
	return fetched, errOdd
}

func (o *oddAnswers) Beat(
	ctx context.Context, c redisstream.Consumer, stream string, say redisstream.Say,
) (redisstream.Beat, error) {
	b, err := o.transport.Beat(ctx, c, stream, say)
	b.Strangers = true
	return b, err
}

func (o *oddAnswers) Strangers(
	_ context.Context, _ redisstream.Consumer, stream string, _ time.Duration, _ redisstream.Most,
) ([]redisstream.Delivered, error) {
	if !o.stranger.Swap(false) {
		return nil, errOdd
	}
	id := redisstream.ID{MS: 1}
	entry := encode(&Event{ID: "stranger", Type: "booking.created"}).Entry(id)
	return []redisstream.Delivered{{Ref: redisstream.Ref{Stream: stream, ID: id}, Entry: entry}}, errOdd
}

// What has come beside something that can't be read is handled. It is held, so nobody would bring
// it again.
func TestG19WhatComesBesideAnErrorIsHandled(t *testing.T) {
	t.Parallel()
	b := openBus(t, Config{})
	odd := &oddAnswers{transport: b.log}
	odd.stranger.Store(true)
	b.log = odd

	joinAndLeave(t, b, "booking.created", "booking.waits")
	publish(t, b, events(5, "booking.created")...)
	publish(t, b, Event{ID: "waits", Type: "booking.waits"})
	gone := redisstream.Consumer{Group: "g", Name: "gone"}
	read, err := b.log.Read(t.Context(), gone, []string{"booking"}, 10, 0)
	if err != nil || len(read) != 6 {
		t.Fatalf("read %d, error %v", len(read), err)
	}
	m, _ := read[5].Entry.Message()
	wait := []redisstream.Wait{{Ref: read[5].Ref, Type: "booking.waits", Message: m}}
	settled, err := b.log.LetWait(t.Context(), gone, "booking", wait, 2)
	if err != nil || settled[0] != redisstream.Done {
		t.Fatal(settled, err)
	}
	if err := b.log.Leave(t.Context(), gone, "booking"); err != nil {
		t.Fatal(err)
	}

	handled := newTally()
	soon := Policy{ClaimIdle: 200 * time.Millisecond}
	g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}, Policy: soon}
	consume(t, b, g, AllStreams, handled.ack)
	handled.await(t, 7)
	awaitSettled(t, b, "booking", "g")
}
