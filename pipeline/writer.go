package pipeline

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

const (
	// flushEvents and flushBytes bound one append: beyond them a longer script only holds the server up for others.
	flushEvents = 512
	flushBytes  = 256 << 10
)

// call is one call of Publish that waits for its outcomes.
type call struct {
	done chan struct{} // closed when all outcomes are there

	mu       sync.Mutex // guards what follows
	left     int
	outcomes []Outcome
}

func newCall(n int) *call {
	return &call{done: make(chan struct{}), left: n, outcomes: make([]Outcome, n)}
}

// set notes the outcome of one event.
func (c *call) set(index int, change func(*Outcome)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.outcomes[index])
	if c.left--; c.left == 0 {
		close(c.done)
	}
}

// take returns the outcomes as they are now. Later ones change nothing in them.
func (c *call) take() []Outcome {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Outcome(nil), c.outcomes...)
}

// pending is one event on its way into a stream.
type pending struct {
	call     *call
	index    int // in the call
	stream   string
	message  redisstream.Message
	remember bool // in the memory of recent events, once it is stored
	once     *redisstream.Seen

	subject   string
	spoolable bool // it may go into the spool
}

func (p *pending) size() int {
	return len(p.message.UUID) + len(p.message.Metadata) + len(p.message.Payload)
}

// writer appends what is queued in front of it, one append at a time: group commit without waiting for company. Its name and
// sequence make an append that is repeated after a lost reply harmless.
type writer struct {
	bus  *Bus
	name string
	seq  uint64 // used by appendLoop only, like renamed

	renamed int // how often it was

	idle atomic.Bool // it has no append under way: what is queued now leaves at once

	mu     sync.Mutex // guards what follows
	queue  []*pending
	bytes  int64 // in the queue
	closed bool
	filled *sync.Cond    // queue is not empty, or closed
	room   chan struct{} // there while somebody waits; closed when there is room
}

func newWriter(b *Bus, name string) *writer {
	w := &writer{bus: b, name: name}
	w.filled = sync.NewCond(&w.mu)
	return w
}

// put queues the events in their order. It waits for room until ctx ends; then those that did not fit are refused.
func (w *writer) put(ctx context.Context, events []*pending) {
	for len(events) > 0 {
		w.mu.Lock()
		if w.closed {
			w.mu.Unlock()
			w.bus.refuse(events, ErrClosed)
			return
		}
		n, cfg := 0, &w.bus.cfg
		for n < len(events) && len(w.queue)+n < cfg.QueueEvents && (w.bytes == 0 || w.bytes+int64(events[n].size()) <= cfg.QueueBytes) {
			w.bytes += int64(events[n].size())
			n++
		}
		w.queue = append(w.queue, events[:n]...)
		events = events[n:]
		if len(events) > 0 && w.room == nil {
			w.room = make(chan struct{})
		}
		room := w.room
		w.filled.Signal()
		w.mu.Unlock()
		if len(events) == 0 {
			return
		}
		select {
		case <-room:
		case <-ctx.Done():
			w.bus.refuse(events, &RedisError{Op: "append", Kind: ErrBackPressure, Err: context.Cause(ctx), Hint: "the queue in front of redis is full"})
			return
		}
	}
}

// take waits for events and removes up to one flush of them; nil when the writer is closed and empty.
//
// Callers that can run now have their turn before it takes: those that the last append has woken publish again at once, and would each time
// find that the next append has just left with one event of the fastest of them. That is no linger: nothing is waited for.
func (w *writer) take() []*pending {
	w.idle.Store(true)
	defer w.idle.Store(false)
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.queue) == 0 && !w.closed {
		w.filled.Wait()
	}
	w.mu.Unlock()
	runtime.Gosched()
	w.mu.Lock()
	n, bytes := 0, 0
	for n < len(w.queue) && n < flushEvents && (n == 0 || bytes+w.queue[n].size() <= flushBytes) {
		bytes += w.queue[n].size()
		n++
	}
	w.bytes -= int64(bytes)
	batch := slices.Clone(w.queue[:n])
	clear(w.queue[:n])
	if n < len(w.queue) {
		w.queue = w.queue[n:]
	} else {
		w.queue = w.queue[:0] // the next one needs no memory of its own
	}
	if w.room != nil {
		close(w.room) // wakes every caller that waits; each looks for itself
		w.room = nil
	}
	return batch
}

// close lets the queue run empty and ends the loop then.
func (w *writer) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.filled.Signal()
}

// appendLoop sends what is queued until the writer is closed.
func (w *writer) appendLoop() {
	for batch := w.take(); len(batch) > 0; batch = w.take() {
		for len(batch) > 0 {
			n := together(batch)
			w.append(batch[:n])
			batch = batch[n:]
		}
	}
}

// together moves the events that one append may carry with the first one to the front, without changing their order, and counts them: those of its
// stream, up to one that is appended once where it is not, or the other way round.
func together(batch []*pending) int {
	first := batch[0]
	n := 1
	for n < len(batch) && batch[n].stream == first.stream && (batch[n].once == nil) == (first.once == nil) {
		n++
	}
	if n == len(batch) {
		return n
	}
	rest := make([]*pending, 0, len(batch)-n)
	ended := false
	for _, p := range batch[n:] {
		ended = ended || p.stream == first.stream && (p.once == nil) != (first.once == nil)
		if p.stream == first.stream && !ended {
			batch[n] = p
			n++
		} else {
			rest = append(rest, p)
		}
	}
	copy(batch[n:], rest)
	return n
}

// append stores the events of one stream, repeating the same append while Redis is away, until the bus gives up on it.
func (w *writer) append(batch []*pending) {
	state := w.bus.State()                             // one look, and the same answer for all of them
	spooled, batch := w.bus.spool.divide(state, batch) // Redis has gone away while they were queued, or others of their subject had to be spooled
	w.bus.spool.keep(spooled)
	if len(batch) == 0 {
		return
	}
	w.seq++
	messages := make([]redisstream.Message, len(batch))
	for i, p := range batch {
		messages[i] = p.message
	}
	stream := batch[0].stream
	if b := w.bus; b.link != nil && state.isAway() {
		b.refuse(batch, b.link.unavailable("append")) // it has become so while they were queued
		return
	}
	certain := true // that nothing was stored
	ctx, cancel := context.WithTimeoutCause(w.bus.stopped, w.bus.cfg.OutageAfter, errOutage)
	defer cancel()
	for attempt := 0; ; attempt++ {
		err := w.send(ctx, batch, messages)
		if err == nil {
			return
		}
		certain = certain && (redisstream.NotSent(err) || w.bus.redis == nil)
		if redisstream.Classify(err) == redisstream.Away && w.bus.waitForRedis(ctx, attempt) {
			continue
		}
		w.giveUp(batch, stream, certain, err)
		return
	}
}

// giveUp ends an append that failed. Where Redis is away what may be spooled is.
func (w *writer) giveUp(batch []*pending, stream string, certain bool, err error) {
	class := redisstream.Classify(err)
	away := class == redisstream.Away || class == redisstream.ReadOnly || errors.Is(err, errOutage) || errors.Is(err, context.DeadlineExceeded)
	if w.bus.spool == nil || !away || w.bus.stopped.Err() != nil {
		w.bus.failed(batch, stream, certain, err)
		return
	}
	spoolable := batch[:0:0]
	others := batch[:0:0]
	for _, p := range batch {
		if p.spoolable {
			spoolable = append(spoolable, p)
		} else {
			others = append(others, p)
		}
	}
	switch {
	case certain:
		w.bus.failed(others, stream, true, err)
		w.bus.spool.keep(spoolable)
	case len(spoolable) == 0:
		w.bus.failed(batch, stream, false, err)
	default:
		// The append as a whole is what may have been carried out, so it is what is repeated. This writer goes on under another name: an append of
		// its own would make that one come too late.
		w.bus.failed(others, stream, false, err)
		w.bus.spool.keepDoubtful(batch, redisstream.Writer{Name: w.name, Seq: w.seq}, spoolable)
		w.renamed++
		w.seq = 0
		w.name = fmt.Sprintf("%s.%d", strings.TrimSuffix(w.name, fmt.Sprintf(".%d", w.renamed-1)), w.renamed)
	}
}

// send makes one attempt at an append, and tells the callers if it succeeds.
func (w *writer) send(ctx context.Context, batch []*pending, messages []redisstream.Message) error {
	mark, stream := redisstream.Writer{Name: w.name, Seq: w.seq}, batch[0].stream
	if batch[0].once == nil {
		first, before, err := w.bus.log.Append(ctx, stream, mark, messages)
		if err == nil {
			w.bus.refusals.taken(stream)
			w.bus.confirm(stream, mark, before, confirmedAppend{first: first, messages: messages})
			w.bus.remember(batch, messages, first)
			w.bus.stored(batch, first)
		}
		return err
	}
	seen := make([]redisstream.Seen, len(batch))
	for i, p := range batch {
		seen[i] = *p.once
	}
	appended, before, err := w.bus.log.AppendOnce(ctx, stream, mark, messages, seen)
	if err == nil {
		w.bus.refusals.taken(stream)
		w.bus.confirm(stream, mark, before, confirmedOnce(messages, seen, appended)...)
		w.bus.appended(batch, messages, appended)
	}
	return err
}

// confirm notes that Redis has confirmed an append.
func (b *Bus) confirm(stream string, w redisstream.Writer, before uint64, stored ...confirmedAppend) {
	if b.confirmed != nil && b.confirmed.note(stream, w, before, stored...) {
		b.suspectRewind()
	}
}

// errOutage ends an append that was repeated for long enough.
var errOutage = errors.New("redis does not answer")

// waitForRedis reports whether an append that met an outage should be repeated, after a wait that grows. One failure never
// fails a publish on its own.
func (b *Bus) waitForRedis(ctx context.Context, attempt int) bool {
	if b.link == nil {
		return false
	}
	b.link.suspect()
	if b.isAway() {
		return false
	}
	pause := min(10*time.Millisecond<<min(attempt, 6), 500*time.Millisecond)
	return sleep(ctx, pause/2+rand.N(pause))
}

// remember keeps stored events in the memory of recent events, with the positions that they have in Redis. The callers hear of them
// later, so whoever looks then finds them.
func (b *Bus) remember(batch []*pending, messages []redisstream.Message, first redisstream.ID) {
	for i := 0; i < len(batch); {
		j := i
		for j < len(batch) && batch[j].remember == batch[i].remember {
			j++
		}
		if batch[i].remember {
			b.local.Remember(batch[i].stream, messages[i:j], first.Plus(i))
		}
		i = j
	}
}

// stored tells the callers where their events stand.
func (b *Bus) stored(batch []*pending, first redisstream.ID) {
	durability := Stored
	if b.redis == nil {
		durability = Volatile
	}
	b.published.add(durability, len(batch))
	ids := make([]redisstream.ID, len(batch))
	for i := range ids {
		ids[i] = first.Plus(i)
	}
	positions := redisstream.Strings(ids)
	for i, p := range batch {
		p.call.set(p.index, func(o *Outcome) { o.Durability, o.Position, o.Err = durability, Position(positions[i]), nil })
	}
}

// failed tells the callers that their events were not stored, or that nobody knows.
func (b *Bus) failed(batch []*pending, stream string, certain bool, err error) {
	durability := Refused
	if certain {
		b.refuses(stream, len(batch), err)
		err = b.redisError("append", stream, err)
	} else {
		durability = Unknown
		err = &RedisError{Op: "append", Key: stream, Kind: ErrUnknown, Err: err, Hint: "publish it again with the same id and PublishOptions.Once"}
	}
	b.published.add(durability, len(batch))
	for _, p := range batch {
		p.call.set(p.index, func(o *Outcome) { o.Durability, o.Err = durability, err })
	}
}

// refuseAll ends the events of a call before they are queued.
func (b *Bus) refuseAll(events []pending, err error) {
	of := make([]*pending, len(events))
	for i := range events {
		of[i] = &events[i]
	}
	b.refuse(of, err)
}

// refuse ends events that never reached the front of the queue.
func (b *Bus) refuse(events []*pending, err error) {
	b.published.add(Refused, len(events))
	for _, p := range events {
		p.call.set(p.index, func(o *Outcome) { o.Durability, o.Err = Refused, err })
	}
}
