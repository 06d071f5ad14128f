package group

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rishi-platform/millrace/internal/loop"
	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/wire"
)

// settlement is the result of one delivery on its way into the log: a copy that arrives later, a dead letter, or else an acknowledgement.
type settlement struct {
	h        *Holding
	retry    *redisstream.Retry
	burial   *redisstream.Burial
	handled  *wire.Event // an acknowledgement: the event that was handled here; nil for one that was not
	repeated bool        // it was sent before, and may have been carried out
}

func (s *settlement) id() string {
	if s.retry != nil {
		return s.retry.Message.UUID
	}
	return s.burial.Message.UUID
}

// size is how many bytes it sends, about.
func (s *settlement) size() int {
	switch {
	case s.retry != nil:
		return len(s.retry.Message.Payload) + len(s.retry.Message.Metadata)
	case s.burial != nil:
		return len(s.burial.Message.Payload) + len(s.burial.Message.Metadata) + len(s.burial.Report)
	}
	return 0
}

// settlements are those that are not in the log yet.
type settlements struct {
	filled chan struct{} // says that the queue is not empty
	ending chan struct{} // closed by close

	mu     sync.Mutex // guards what follows
	queue  []settlement
	closed time.Time // zero: open
}

const (
	// settleAtOnce is the most results that one round trip carries.
	settleAtOnce = 1000
	// settleBytes is about how many bytes it carries at most.
	settleBytes = 4 << 20
	// settleTimeout bounds one round trip.
	settleTimeout = 5 * time.Second
	// settleBackoffMost bounds the pause before results are written again: until they are, a death of this process repeats what it has done.
	settleBackoffMost = 500 * time.Millisecond
)

func (s *settlements) init() {
	s.filled, s.ending = make(chan struct{}, 1), make(chan struct{})
}

// put adds a result. After close it is dropped: the delivery was handed back, and comes again.
func (s *settlements) put(one settlement) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed.IsZero() {
		return
	}
	s.queue = append(s.queue, one)
	select {
	case s.filled <- struct{}{}:
	default: // settleLoop has been told already
	}
}

// take waits for results, or until the given time where it is not zero. It returns false when closed and empty.
func (s *settlements) take(until time.Time) ([]settlement, bool) {
	for {
		s.mu.Lock()
		n := s.atOnce()
		batch := s.queue[:n:n]
		s.queue = s.queue[n:]
		closed := !s.closed.IsZero()
		s.mu.Unlock()
		switch {
		case n > 0, !until.IsZero() && !time.Now().Before(until):
			return batch, true
		case until.IsZero() && closed:
			return nil, false
		case until.IsZero():
			select {
			case <-s.filled:
			case <-s.ending:
			}
		default:
			s.pause(time.Until(until))
		}
	}
}

// atOnce is how many results the next round trip carries. The lock is held.
func (s *settlements) atOnce() int {
	bytes := 0
	for i := range s.queue {
		if bytes += s.queue[i].size(); i == settleAtOnce || i > 0 && bytes > settleBytes {
			return i
		}
	}
	return len(s.queue)
}

// pause waits for a while, or until there are more results.
func (s *settlements) pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-s.filled:
	case <-timer.C:
	}
}

func (s *settlements) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = time.Now()
	close(s.ending)
}

// expired reports whether the loop should give up on what it can't send: it was closed some time ago.
func (s *settlements) expired() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.closed.IsZero() && time.Since(s.closed) > finishTimeout
}

// beatAgain is the shortest time between two beats that burials ask for.
const beatAgain = 200 * time.Millisecond

// settle notes the result of a delivery that was handed out.
func (c *Consumer) settle(h *Holding, r *Result) {
	failure := c.count(h, r)
	result := settlement{h: h}
	to, hold := heldEnded, time.Duration(0)
	switch {
	case h.ref.Spool && c.holdings.isLost(h):
		to = heldGone // the claim is its successor's
	case h.ref.Spool:
		to = heldGone
		c.host.Spool.Finish(h.ref.ID.MS, c.self, r == nil)
		if r == nil {
			c.done.add(h.Event)
		}
	case r == nil:
		result.handled = h.Event
	case c.handling.Err() == nil:
		result = c.resultOf(h, r)
		switch {
		case result.burial != nil:
			result.burial.Failure = failure
		case h.isFault(r):
			hold = untilLogged // it is handed back, and comes by the lane at once
		default:
			result.retry.Failure = failure
			hold = max(result.retry.Delay, time.Millisecond)
		}
	default:
		// Interrupted is not failed: the drain cut it off. It stays pending, is handed back, and costs no
		// attempt.
		to = heldRead
	}
	switch lost := c.holdings.finish(h, to, hold); {
	case to != heldEnded || lost: // whoever has it settles it
	case hold == untilLogged:
		c.putBack(result)
	default:
		c.acks.put(result)
	}
}

// count keeps the numbers that the consumer says of itself, and returns what the log is to count of a
// failure: nothing of what says something of this process alone, of more time that is asked for, and of
// what was only tried. The results of these three, a success as well, decide at once.
func (c *Consumer) count(h *Holding, r *Result) (failure redisstream.Failure) {
	fault := false
	switch {
	case r == nil:
		c.handled.Add(1)
		h.of.handled.Add(1)
	case c.holdings.isLost(h) || c.handling.Err() != nil:
		return failure // that is no result; a probe is made again
	case h.isFault(r):
		fault = true
	case !h.isPutOff(r):
		c.failed.Add(1)
		if !h.probe.Load() && !h.trial.Load() {
			print := Fingerprint(r.Kind, r.Err.Error())
			failure = failureOf(h.Event, print)
			c.noteReason(print, r.Err)
			c.failedAfter.Store(c.handled.Load() + 1)
		}
	}
	c.probed(h, r == nil)
	c.tried(h, r == nil)
	if fault {
		c.stop("the handler can't be run here: "+r.Err.Error(), "")
	}
	return failure
}

// putOffLimit is how long after its first attempt a delivery may still be put off at no cost of an
// attempt, and the longest time for which it is put off at once.
const putOffLimit = 24 * time.Hour

// resultOf says what becomes of a delivery that failed: it is tried again, or given up.
func (c *Consumer) resultOf(h *Holding, r *Result) settlement {
	failures := int(h.Attempt - h.Crashes) // with this one
	switch limit := c.cfg.Policy.Attempts; {
	case h.isFault(r):
		return settlement{h: h, retry: c.handedBack(h)}
	case h.isPutOff(r):
		return settlement{h: h, retry: c.retryOf(h, int(h.Attempt), c.putOffFor(h, failures, r.After))}
	case r.Permanent, limit > 0 && failures >= limit:
		return settlement{h: h, burial: c.burialOf(h, r)}
	}
	return settlement{h: h, retry: c.retryOf(h, int(h.Attempt)+1, c.cfg.Policy.Backoff(failures))}
}

// isPutOff reports whether a handler asks for more time, which costs no attempt.
func (h *Holding) isPutOff(r *Result) bool {
	return r.Later && !r.Permanent && time.Since(h.First) < putOffLimit
}

// isFault reports whether a handler could not be run by this process, which costs no attempt either. What
// was stopped by its timeout has run.
func (h *Holding) isFault(r *Result) bool {
	return r.Fault && !r.Permanent && r.Kind != KindTimeout && time.Since(h.First) < putOffLimit
}

// putOffFor is for how long a delivery is put off whose handler asked for a time, or for none.
// Without one the back-off counts the put-offs besides the failures: a delivery that is never ready
// would come each second for a day otherwise, since its attempt stays the same.
func (c *Consumer) putOffFor(h *Holding, failures int, asked time.Duration) time.Duration {
	if asked <= 0 {
		wait := c.cfg.Policy.Backoff(failures + h.Notes().putOffs)
		h.note(func(n *Notes) { n.putOffs++ })
		return wait
	}
	if asked > putOffLimit {
		if !c.putOffCut.Swap(true) {
			c.logger.Warn("handler asks for more time than a delivery may be put off; that it did is said once",
				"stream", h.ref.Stream, "id", h.Event.ID, "asked", asked, "put off for", putOffLimit)
		}
		return putOffLimit
	}
	return asked
}

// retryOf returns the next attempt of a delivery.
func (c *Consumer) retryOf(h *Holding, attempt int, delay time.Duration) *redisstream.Retry {
	return &redisstream.Retry{Ref: h.ref, Message: h.copy(attempt, OriginRetry), Delay: max(0, delay)}
}

// copy returns a delivery as a copy that arrives later.
func (h *Holding) copy(attempt int, origin string) redisstream.Message {
	n := h.Notes()
	e := wire.Decoded{
		Event: *h.Event, Position: h.Position, Crashes: int(h.Crashes), First: h.First, PutOffs: n.putOffs,
		Hop: n.Hop, Previous: n.Previous, Others: n.others,
	}
	return wire.Again(h.ref.ID, &e, attempt, origin)
}

// report puts the result of an entry that was not handed out on its way into the log.
func (c *Consumer) report(s settlement) {
	if len(c.holdings.report(s.h)) > 0 {
		c.acks.put(s)
	}
}

// settleLoop writes results into the log, all that are there in one go, without waiting for more. What can't be written is tried again
// later and holds nothing else up: acknowledgements are what makes room in a full lane, and a key that refuses concerns its own
// stream only.
func (c *Consumer) settleLoop() {
	var left []settlement // that could not be written
	var again time.Time   // when they are tried again
	var trouble error
	var backoff loop.Backoff
	for {
		batch, more := c.acks.take(again)
		if !more {
			return
		}
		if len(left) > 0 && !time.Now().Before(again) {
			batch, left = append(left, batch...), nil
		}
		notYet, err := c.write(batch)
		left = append(left, notYet...)
		switch {
		case len(left) == 0:
			if trouble != nil {
				c.logger.Info("results are written again")
			}
			trouble, again = nil, time.Time{}
			backoff.Reset()
			continue
		case c.acks.expired():
			c.logger.Warn("results could not be written, their deliveries come again", "deliveries", len(left), "err", err)
			return
		case len(notYet) == 0:
			continue // what was left before waits on
		}
		if trouble == nil || redisstream.Classify(trouble) != redisstream.Classify(err) {
			c.logger.Warn("results can't be written now", "deliveries", len(notYet), "err", c.shape("settle", "", err))
		}
		pause := backoff.Within(settleBackoffMost)
		trouble, again = err, time.Now().Add(pause)
		if class := redisstream.Classify(err); class == redisstream.Away || class == redisstream.ReadOnly {
			time.Sleep(pause) // nothing can be written
		}
	}
}

// errFull is what keeps a retry from being written.
var errFull = errors.New("lane or deferred set of the group is full")

// write writes results and returns those that it could not, with the first reason.
func (c *Consumer) write(batch []settlement) (left []settlement, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	acks, acked := make([]redisstream.Ref, 0, len(batch)), make([]*Holding, 0, len(batch))
	retries, burials := map[string][]settlement{}, map[string][]settlement{} // by stream
	for _, s := range batch {
		switch stream := s.h.ref.Stream; {
		case s.retry != nil:
			retries[stream] = append(retries[stream], s)
		case s.burial != nil:
			burials[stream] = append(burials[stream], s)
		default:
			acks = append(acks, s.h.ref)
			acked = append(acked, s.h)
			if s.handled != nil { // here, since a hash would make the small stack of a handler's goroutine grow
				c.done.add(s.handled)
			}
		}
	}
	if len(acks) > 0 {
		var notYet []redisstream.Ref
		_, notYet, err = c.log.Ack(ctx, c.self, acks)
		if len(notYet) > 0 {
			open := make(map[redisstream.Ref]bool, len(notYet))
			for _, ref := range notYet {
				open[ref] = true
			}
			acked = slices.DeleteFunc(acked, func(h *Holding) bool {
				if open[h.ref] {
					left = append(left, settlement{h: h})
				}
				return open[h.ref]
			})
		}
		c.holdings.settled(acked...)
	}
	for stream, batch := range retries {
		notYet, retryErr := c.writeRetries(ctx, stream, batch)
		err = cmpErr(err, retryErr)
		left = append(left, notYet...)
	}
	for stream, batch := range burials {
		notYet, buryErr := c.writeBurials(ctx, stream, batch)
		err = cmpErr(err, buryErr)
		left = append(left, notYet...)
	}
	return left, err
}

// writeRetries writes the copies of failed deliveries of one stream and returns those that it could not write.
func (c *Consumer) writeRetries(ctx context.Context, stream string, batch []settlement) (left []settlement, err error) {
	retries := make([]redisstream.Retry, len(batch))
	for i, s := range batch {
		retries[i] = *s.retry
	}
	settled, err := c.log.Retry(ctx, c.self, stream, retries)
	left, full := c.written(batch, settled)
	if full {
		err = cmpErr(err, errFull)
	}
	if m := c.membership(stream); m != nil {
		for _, r := range retries {
			if r.Delay > 0 {
				m.dues.add(time.Now().Add(r.Delay))
			}
		}
	}
	return left, err
}

// writeBurials makes dead letters of deliveries of one stream and returns those of which it could not.
func (c *Consumer) writeBurials(ctx context.Context, stream string, batch []settlement) (left []settlement, err error) {
	burials := make([]redisstream.Burial, len(batch))
	for i, s := range batch {
		burials[i] = *s.burial
	}
	bounds := redisstream.Bounds{Length: int64(c.cfg.Policy.DeadLetters), Age: c.cfg.Policy.DeadLetterAge}
	settled, dropped, err := c.log.Bury(ctx, c.self, stream, bounds, burials)
	left, _ = c.written(batch, settled)
	c.beatAfterBurials(stream, batch)
	if n := len(batch) - len(left); n > 0 {
		c.logger.Error("deliveries were given up and are dead letters now", "stream", stream, "deliveries", n, "id", batch[0].id(),
			"hint", fmt.Sprintf("millrace dead ls %s %s", stream, c.cfg.Group))
	}
	if dropped > 0 {
		c.logger.Error("dead letters were lost: the oldest had to go by the bounds of the group", "stream", stream, "dropped", dropped)
	}
	return left, err
}

// beatAfterBurials asks for a beat where deliveries were given up that failed: it tells whether the group
// is to be paused. One is enough for a while.
func (c *Consumer) beatAfterBurials(stream string, batch []settlement) {
	m := c.membership(stream)
	if m == nil || !slices.ContainsFunc(batch, func(s settlement) bool { return s.burial.Failure.Print != "" }) {
		return
	}
	now := time.Now().UnixNano()
	if before := m.kicked.Load(); now-before > int64(beatAgain) && m.kicked.CompareAndSwap(before, now) {
		m.beatSoon()
	}
}

// written releases what is settled in the log and returns the rest. A delivery that was taken over needs nothing more: whoever took it has
// it. And where the state of the group was lost it comes again.
func (c *Consumer) written(batch []settlement, settled []redisstream.Settled) (left []settlement, full bool) {
	for i, s := range batch {
		switch settled[i] {
		case redisstream.Full:
			full = true
			left = append(left, s)
			continue
		case redisstream.Unknown:
			s.repeated = true
			left = append(left, s)
			continue
		case redisstream.LeaseLost:
			if !s.repeated { // a repetition finds the delivery settled by the first one, whose answer was lost
				c.logger.Warn("result of a failed delivery was not written: a peer has taken it over, or the state of the group was lost",
					"stream", s.h.ref.Stream, "position", s.h.ref.ID.String(), "lane", s.h.ref.Lane, "id", s.id())
			}
		}
		c.holdings.settled(s.h)
	}
	return left, full
}
