package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/rishi-platform/millrace/internal/loadgen"
)

const (
	limitInFlight = 8   // pipelines that wait for their replies at once
	limitCount    = 500 // entries per read
)

// runLimit measures what Redis can do with the same entries, driven as hard as it can be: pipelined XADDs on one connection; on
// another, reads of up to 500 with one XACK for each of them sent along with the next read.
func runLimit(ctx context.Context, s spec) (sample, error) {
	m, err := newMeter(s)
	if err != nil {
		return nil, err
	}
	switch s.Kind {
	case kindPublish, kindMemory:
		return limitPublish(ctx, s, m)
	case kindConsume:
		if err := fill(ctx, s); err != nil {
			return nil, err
		}
	}
	return limitConsume(ctx, s, m)
}

// fill puts a backlog into the stream, as a producer that docs/wire.md describes would.
func fill(ctx context.Context, s spec) error {
	p, err := newProducer(s.Server, s.Payload)
	if err != nil {
		return err
	}
	defer p.close()
	if _, err := p.do("SADD", "millrace:registry:streams", stream); err != nil {
		return err
	}
	return p.publish(ctx, s.Events, 128)
}

func limitPublish(ctx context.Context, s spec, m *meter) (sample, error) {
	p, err := newProducer(s.Addr, s.Payload)
	if err != nil {
		return nil, err
	}
	defer p.close()
	if err := m.start(); err != nil {
		return nil, err
	}
	if err := p.publish(ctx, s.Events, s.Batch); err != nil {
		return nil, err
	}
	return m.stop(s.Events)
}

func limitConsume(ctx context.Context, s spec, m *meter) (sample, error) {
	// At a distance a second read is under way while the first is handled. On loopback it would only make batches smaller.
	ahead := 1
	if s.RTT > 0 {
		ahead = 2
	}
	c, err := newTaker(s.Addr, ahead)
	if err != nil {
		return nil, err
	}
	defer c.close()
	p, err := newProducer(s.Addr, s.Payload)
	if err != nil {
		return nil, err
	}
	defer p.close()

	var latencies loadgen.Latencies
	var handle func(payload []byte)
	if s.Kind == kindLatency {
		handle = func(payload []byte) {
			age, _ := loadgen.Age(payload)
			latencies.Add(age)
		}
	}
	if err := m.start(); err != nil {
		return nil, err
	}
	published := make(chan error, 1)
	go func() {
		var err error
		switch s.Kind {
		case kindLatency:
			err = p.publishAt(ctx, s.Events, latencyRate)
		case kindEndToEnd:
			err = p.publish(ctx, s.Events, s.Batch)
		}
		if err != nil {
			c.close() // it would wait in vain
		}
		published <- err
	}()
	if err := errors.Join(c.take(s.Events, handle), <-published); err != nil {
		return nil, err
	}
	got, err := m.stop(s.Events)
	if err != nil {
		return nil, err
	}
	got.addLatencies(&latencies)
	return got, nil
}

// producer pipelines XADDs.
type producer struct {
	*conn
	command []byte // one XADD
	uuid    int    // where its event ID begins
	payload int    // where its payload begins
	size    int    // of the payload
	next    uint64 // number of the next event
}

const uuidPrefix = "01a214c9-f939-7c94-b90f-" // 12 digits follow

func newProducer(addr string, payload int) (*producer, error) {
	c, err := dial(addr)
	if err != nil {
		return nil, err
	}
	p := &producer{conn: c, size: payload}
	p.command = appendCommand(nil, "XADD", stream, "MAXLEN", "~", strconv.Itoa(maxLen), "*",
		"_watermill_message_uuid", uuidPrefix+"000000000000", "metadata", string(msgpackMetadata()), "payload", string(loadgen.NewPayload(payload)))
	p.payload = len(p.command) - len("\r\n") - payload
	p.uuid = bytes.Index(p.command, []byte(uuidPrefix))
	return p, nil
}

func (p *producer) close() { _ = p.Close() }

// add queues one event.
func (p *producer) add() {
	at := len(p.out)
	p.out = append(p.out, p.command...)
	const digits = "0123456789abcdef"
	for i, n := len(uuidPrefix)+11, p.next; n > 0; i, n = i-1, n/16 {
		p.out[at+p.uuid+i] = digits[n%16]
	}
	p.next++
}

// publish publishes n events in pipelines of batch, several of them under way at once, and returns when all are stored.
func (p *producer) publish(ctx context.Context, n, batch int) error {
	inFlight := make(chan int, limitInFlight)
	failed := make(chan error, 1)
	go func() {
		defer close(failed)
		for size := range inFlight {
			for range size {
				if _, err := p.bulk(); err != nil {
					failed <- err
					return
				}
			}
		}
	}()
	for sent := 0; sent < n; {
		size := min(batch, n-sent)
		for range size {
			p.add()
		}
		select {
		case inFlight <- size:
		case err := <-failed:
			return fmt.Errorf("publish: %w", err)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := p.flush(); err != nil {
			return fmt.Errorf("publish: %w", err)
		}
		sent += size
	}
	close(inFlight)
	return <-failed
}

// publishAt publishes n events one by one at the given rate, waiting for none.
func (p *producer) publishAt(ctx context.Context, n int, rate float64) error {
	stored := make(chan error, 1)
	go func() {
		for range n {
			if _, err := p.bulk(); err != nil {
				stored <- err
				return
			}
		}
		stored <- nil
	}()
	err := loadgen.Spread(ctx, 1, 1, n, rate, func(loadgen.Share) error {
		p.add()
		loadgen.Stamp(p.out[p.payload : p.payload+p.size])
		return p.flush()
	})
	if err != nil {
		return err
	}
	return <-stored
}

// taker reads as a consumer of the group, and acknowledges.
type taker struct {
	reads *conn
	acks  *conn
	ahead int // reads that are under way at once
}

// newTaker makes the group. A read that waits holds up what is sent behind it on its connection, so with more than one under way
// the acknowledgements have a connection of their own. With one they go along with the next read, which spares the server a packet.
func newTaker(addr string, ahead int) (*taker, error) {
	reads, err := dial(addr)
	if err != nil {
		return nil, err
	}
	if _, err := reads.do("XGROUP", "CREATE", stream, group, "0", "MKSTREAM"); err != nil {
		return nil, err
	}
	t := &taker{reads: reads, acks: reads, ahead: ahead}
	if ahead > 1 {
		t.acks, err = dial(addr)
	}
	return t, err
}

func (t *taker) close() { _, _ = t.reads.Close(), t.acks.Close() }

// take reads n events and returns when all are acknowledged. handle may be nil.
func (t *taker) take(n int, handle func(payload []byte)) error {
	for range t.ahead {
		t.queueRead()
	}
	if err := t.reads.flush(); err != nil {
		return err
	}
	var ids []byte // of one read, as arguments of XACK
	sent := 0      // acknowledgements without an answer
	for taken := 0; taken < n; {
		if t.acks == t.reads {
			if err := t.awaitAcks(sent); err != nil {
				return err
			}
			sent = 0
		}
		ids = ids[:0]
		got, err := t.reads.entries(func(id, payload []byte) {
			ids = appendBulk(ids, id)
			if handle != nil {
				handle(payload)
			}
		})
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		if got > 0 {
			t.queueAck(got, ids)
			taken += got
			sent++
		}
		if taken < n {
			t.queueRead()
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	return t.awaitAcks(sent)
}

func (t *taker) queueRead() {
	t.reads.queue("XREADGROUP", "GROUP", group, "limit", "COUNT", strconv.Itoa(limitCount), "BLOCK", "2000", "STREAMS", stream, ">")
}

func (t *taker) queueAck(n int, ids []byte) {
	out := fmt.Appendf(t.acks.out, "*%d\r\n", 3+n)
	for _, arg := range []string{"XACK", stream, group} {
		out = appendBulk(out, arg)
	}
	t.acks.out = append(out, ids...)
}

// flush sends acknowledgements and reads, in one packet where they have one connection.
func (t *taker) flush() error {
	if err := t.acks.flush(); err != nil {
		return err
	}
	if t.acks == t.reads {
		return nil
	}
	return t.reads.flush()
}

func (t *taker) awaitAcks(n int) error {
	for range n {
		if _, err := t.acks.text(); err != nil {
			return fmt.Errorf("ack: %w", err)
		}
	}
	return nil
}
