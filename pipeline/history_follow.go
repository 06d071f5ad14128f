package pipeline

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/rishi-platform/millrace/internal/loop"
	"github.com/rishi-platform/millrace/internal/redisstream"
)

const (
	followBlock = 500 * time.Millisecond
	// discoverEvery is how soon a stream that was made later is noticed by those who follow all streams.
	discoverEvery = 5 * time.Second
	// untilMargin is how far the clock of the server may be behind ours when a follower decides that Until has passed.
	untilMargin = time.Second
)

// follow yields what is there and what is stored from now on. It goes on over outages, from where it was.
func (h *historyRead) follow(ctx context.Context, yield func(Record, error) bool) error {
	for {
		over := !h.query.Until.IsZero() && time.Since(h.query.Until) > untilMargin // whatever is stored before Until is there by now
		scanned := h.scanned
		err := h.followOnce(ctx, over, yield)
		switch {
		case err == errStopped:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil && over && h.scanned == scanned:
			return nil
		case err == nil:
			h.trouble.over()
		case !errors.Is(err, ErrUnavailable):
			return err
		case !h.trouble.wait(ctx, err):
			return context.Cause(ctx)
		}
	}
}

// followOnce waits for a moment, and yields what there is then. What keeps it from reading one log does not keep it from reading others.
func (h *historyRead) followOnce(ctx context.Context, over bool, yield func(Record, error) bool) error {
	var missed error
	if over || time.Since(h.looked) > discoverEvery {
		h.looked = time.Now()
		missed = h.discover(ctx)
	}
	h.lookAgain(ctx)
	refused := h.refused
	missed = cmp.Or(missed, h.await(ctx, over))
	err := h.drain(ctx, yield)
	if err == nil && h.refused != refused {
		return nil // the stream that was refused to both is left out from now on
	}
	return cmp.Or(err, missed)
}

// discover adds streams that were made later.
func (h *historyRead) discover(ctx context.Context) error {
	streams, err := h.list(ctx)
	for _, s := range streams {
		if !h.streams[s] {
			err = cmp.Or(err, h.addStream(ctx, s, true))
		}
	}
	return err
}

// lookAgain looks whether a stream is still the one that was read. Each has its turn: to ask for all of them at once would hold up what
// comes meanwhile.
func (h *historyRead) lookAgain(ctx context.Context) {
	if time.Since(h.lookedAgain) < followBlock/2 || len(h.pagers) == 0 {
		return
	}
	h.lookedAgain = time.Now()
	h.turn++
	p := h.pagers[h.turn%len(h.pagers)]
	info, err := p.log.Info(ctx, p.stream)
	if err != nil {
		return // reading tells, if it can't be read either
	}
	if behind, back := p.known.look(info); back {
		p.from, p.page, p.ended = maxID(h.since, behind.Next()), nil, false
		p.done = p.from.Compare(p.to) > 0
	}
}

// await waits for a moment for something to read. It waits for one log only, Redis where that is read: what is new in the memory comes
// with the next round.
func (h *historyRead) await(ctx context.Context, over bool) error {
	block := followBlock
	for _, p := range h.pagers {
		if over || !p.ended && !p.done {
			block = 0 // there is more already
		}
	}
	var missed error
	for _, log := range h.bus.sources(h.query.Source) {
		missed = cmp.Or(missed, h.awaitLog(ctx, log, block))
		block = 0
	}
	return missed
}

// awaitLog waits for something behind what was read of one log.
func (h *historyRead) awaitLog(ctx context.Context, log streamLog, block time.Duration) error {
	after, of := map[string]redisstream.ID{}, map[string]*pager{}
	for _, p := range h.pagers {
		if p.log == log && !p.done {
			after[p.stream], of[p.stream] = p.from.Prev(), p
		}
	}
	inCluster := h.bus.redis != nil && h.bus.redis.StreamsPerRead() == 1
	if len(after) == 0 || len(after) > 1 && inCluster { // whose streams can't be waited for together: each is looked into
		for _, p := range of {
			p.ended = false
		}
		loop.Sleep(ctx, block)
		return nil
	}
	news, err := log.Tail(ctx, after, 1, block)
	for stream, entries := range news {
		p := of[stream]
		p.ended = false
		p.done = entries[0].ID.Compare(p.to) > 0
	}
	err = h.bus.redisError("follow history", "", err)
	if errors.Is(err, ErrDenied) {
		for _, p := range of {
			p.ended = false // looking into each tells which one it is
		}
	}
	return err
}
