package pipeline

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/redistest"
)

// slowLink is 40 Mbit/s.
const slowLink = 5_000_000

// large publishes n events with so many bytes.
func large(t *testing.T, b *Bus, n, size int) {
	t.Helper()
	data := bytes.Repeat([]byte("x"), size)
	for i := range n {
		publish(t, b, Event{ID: fmt.Sprintf("e%05d", i), Type: "booking.created", ContentType: "text/plain", Data: data})
	}
}

// More than a link carries within a time-out waits for a group: it is read in pieces that arrive.
func TestG16LargeEventsArriveOverASlowLink(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	large(t, openBus(t, Config{Redis: server.Options(), Namespace: namespace}), 200, 100_000)
	b, proxy := behind(t, namespace)
	proxy.Limit(slowLink)
	handled := newTally()
	handle(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}}, AllStreams, func(_ context.Context, d *Delivery) error {
		handled.add(d.Event.ID)
		return nil
	})
	handled.await(t, 200)
	awaitSettled(t, b, "booking", "g")
	if twice := handled.more(); len(twice) > 0 {
		t.Errorf("handled more than once: %v", twice)
	}
}

// A server that cuts off whoever asks for more than its output buffer holds is asked for less.
func TestG16OutputBufferOfTheServerIsKept(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	b := openBus(t, Config{Redis: server.Options()})
	large(t, b, 64, 1_000_000)
	if err := server.Client(t).ConfigSet(t.Context(), "client-output-buffer-limit", "normal 4mb 4mb 0").Err(); err != nil {
		t.Fatal(err)
	}
	handled := newTally()
	handle(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}}, AllStreams, func(_ context.Context, d *Delivery) error {
		handled.add(d.Event.ID)
		return nil
	})
	handled.await(t, 64)
	awaitSettled(t, b, "booking", "g")
}

// What is pending with a consumer that does not know of it, since an answer was lost, is asked for in
// pieces as well; and a peer's likewise.
func TestG16LargeEntriesThatAreHeldArrive(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	client := server.Client(t)
	direct := openBus(t, Config{Redis: server.Options(), Namespace: namespace})
	g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}}
	_ = consumeNothing(t, direct, g).Close()
	large(t, direct, 8, 1_000_000)
	deadConsumer(t, client, namespace, "dead", 8)
	log := newLogged()
	proxy := redistest.NewProxy(t, server.Addr())
	b := openBus(t, Config{Redis: &redis.UniversalOptions{Addrs: []string{proxy.Addr()}}, Namespace: namespace, Logger: slog.New(log)})
	handled := newTally()
	handle(t, b, g, AllStreams, func(_ context.Context, d *Delivery) error {
		handled.add(d.Event.ID)
		return nil
	})
	publish(t, direct, Event{ID: "first", Type: "booking.created"}) // so that there is a connection that reads
	handled.await(t, 1)
	proxy.DropReplies(true) // the next read has no answer
	for i := range 16 {
		publish(t, direct, Event{ID: fmt.Sprint("lost-", i), Type: "booking.created", Data: bytes.Repeat([]byte(" "), 1_000_000)})
	}
	awaitFact(t, "entries that nobody knows", func() bool {
		return client.XPending(t.Context(), namespace+":booking", "g").Val().Count > 8
	})
	proxy.Limit(slowLink)
	proxy.DropReplies(false)
	proxy.Reset()
	handled.await(t, 25)
	awaitSettled(t, direct, "booking", "g")
}

// Three events are three events, however large all others are.
func TestG16ShortHistoryOfLargeEvents(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	large(t, openBus(t, Config{Redis: server.Options(), Namespace: namespace}), 40, 1_000_000)
	b, proxy := behind(t, namespace)
	proxy.Limit(slowLink)
	if got := records(t, b, Query{Limit: 3}); len(got) != 3 {
		t.Errorf("got %d events, want 3", len(got))
	}
	if got := records(t, b, Query{Limit: 3, Newest: true}); len(got) != 3 || got[0].ID != "e00039" {
		t.Errorf("got %d events, want the 3 newest", len(got))
	}
}

// However many streams have something: whoever has room for one takes one.
func TestG07RoomForOneTakesOne(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		const streams = 32
		for i := range streams {
			publish(t, b, Event{ID: fmt.Sprint(i), Type: fmt.Sprintf("s%02d.x", i)})
		}
		handled := newTally()
		began := [2]chan struct{}{make(chan struct{}), make(chan struct{})}
		goOn := [2]chan struct{}{make(chan struct{}), make(chan struct{})}
		for i := range 2 {
			handle(t, b, GroupConfig{Group: "g", Patterns: []string{"*.x"}, InFlight: 1}, AllStreams, func(_ context.Context, d *Delivery) error {
				began[i] <- struct{}{}
				<-goOn[i]
				handled.add(d.Event.ID)
				return nil
			})
		}
		for range streams / 2 { // both are busy until the last one: neither has what the other could do
			for i := range 2 {
				within(t, fmt.Sprint("a delivery to consumer ", i), began[i])
			}
			<-time.After(20 * time.Millisecond) // slow handlers: fast ones read ahead what takes 5 ms
			for _, c := range b.consuming() {
				if n := c.Held(""); n > 4 {
					t.Fatalf("a consumer with one place holds %d deliveries", n)
				}
			}
			for i := range 2 {
				goOn[i] <- struct{}{}
			}
		}
		handled.await(t, streams)
	})
}

// What waits for a place here while a sibling has nothing to do is handled there.
func TestG07WhatWaitsGoesToAnIdleSibling(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(nil)
		began, goOn := make(chan struct{}), make(chan struct{})
		g := GroupConfig{Group: "g", Patterns: []string{"booking.*"}, InFlight: 1}
		handled := newTally()
		handle(t, b, g, AllStreams, func(_ context.Context, d *Delivery) error {
			if d.Event.ID == "long" {
				close(began)
				<-goOn
			}
			handled.add(d.Consumer + " " + d.Event.ID)
			return nil
		})
		publish(t, b, Event{ID: "long", Type: "booking.created"})
		within(t, "the long job", began)
		busy := onlyConsumer(t, b)
		publish(t, b, events(5, "booking.created")...)
		read, err := b.log.Read(t.Context(), busy.Self(), []string{"booking"}, 10, time.Second)
		if err != nil || len(read) != 5 {
			t.Fatal(read, err)
		}
		busy.Take(read) // as if there had been room
		handle(t, b, g, AllStreams, func(_ context.Context, d *Delivery) error {
			if d.Attempt != 1 || d.Origin != OriginFresh {
				t.Errorf("%s is attempt %d of origin %q", d.Event.ID, d.Attempt, d.Origin)
			}
			handled.add(d.Consumer + " " + d.Event.ID)
			return nil
		})
		handled.await(t, 5)
		close(goOn)
		handled.await(t, 6)
		awaitSettled(t, b, "booking", "g")
		if _, n, _ := busy.Counts(); n != 1 {
			t.Errorf("the busy one has handled %d", n)
		}
	})
}
