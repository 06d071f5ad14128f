package pipeline

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rishi-platform/millrace/internal/loop"
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

// writer appends what is queued in front of it: for each stream one append at a time, group commit without waiting for company, and streams side by
// side, so that one which Redis refuses, or of which the shard is away, holds up no other. Its name and the sequence at a stream make an append that is
// repeated after a lost reply harmless.
type writer struct {
	bus  *Bus
	name string

	busy  atomic.Int32      // how many appends are under way
	ready chan *streamQueue // to a worker that has nothing to do; closed with the writer

	mu     sync.Mutex // guards what follows
	queues map[string]*streamQueue
	events int   // in them
	bytes  int64 // of these
	closed bool
	room   chan struct{} // there while somebody waits; closed when there is room
}

// streamQueue is what waits in front of a writer for one stream.
type streamQueue struct {
	writer  *writer
	stream  string
	mark    redisstream.Writer // of the last append; the worker's, like what follows
	renamed int                // how often it was
	busy    bool               // an append is under way

	events  []*pending // guarded by the writer's lock, as what follows
	bytes   int64
	working bool      // a worker has it
	begun   time.Time // when the append under way was; zero: none is
}

func newWriter(b *Bus, name string) *writer {
	return &writer{bus: b, name: name, ready: make(chan *streamQueue), queues: map[string]*streamQueue{}}
}

// isIdle reports whether no append is under way: what is queued now leaves at once.
func (w *writer) isIdle() bool { return w.busy.Load() == 0 }

// queue returns the queue of a stream. The lock is held.
func (w *writer) queue(stream string) *streamQueue {
	q := w.queues[stream]
	if q == nil {
		q = &streamQueue{writer: w, stream: stream, mark: redisstream.Writer{Name: w.name}}
		w.queues[stream] = q
	}
	return q
}

// put queues the events in their order. It waits for room until ctx ends; then those that did not fit are refused.
func (w *writer) put(ctx context.Context, events []*pending) {
	for {
		w.mu.Lock()
		if w.closed {
			w.mu.Unlock()
			w.bus.refuse(events, ErrClosed)
			return
		}
		for len(events) > 0 && w.add(events[0]) {
			events = events[1:]
		}
		if len(events) == 0 {
			w.mu.Unlock()
			return
		}
		if w.room == nil {
			w.room = make(chan struct{})
		}
		room := w.room
		w.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			w.bus.refuse(events, &RedisError{Op: "append", Kind: ErrBackPressure, Err: context.Cause(ctx), Hint: "the queue in front of redis is full"})
			return
		}
	}
}

// add queues an event, if there is room. A stream whose append takes long leaves as much room to the others as it takes. The lock is held.
func (w *writer) add(p *pending) bool {
	q, size := w.queue(p.stream), int64(p.size())
	events, bytes := w.bus.cfg.QueueEvents-w.events, w.bus.cfg.QueueBytes-w.bytes
	if events <= 0 || w.bytes > 0 && bytes < size || (len(q.events) >= events || q.bytes >= bytes) && q.isSlow() {
		return false
	}
	q.events = append(q.events, p)
	q.bytes += size
	w.events++
	w.bytes += size
	if q.working {
		return true
	}
	q.working = true
	select {
	case w.ready <- q:
	default: // no worker waits
		w.bus.appending.Start("append", func() { w.work(q) })
	}
	return true
}

// work sends what is queued for a stream until nothing is, and then for those that have nobody to do so.
func (w *writer) work(q *streamQueue) {
	for there := true; there; q, there = <-w.ready {
		for batch := q.take(); len(batch) > 0; batch = q.take() {
			q.append(batch)
		}
	}
}

// take removes up to one append of events: those at the front that are appended once, or those that are not. Where there are none, nobody works for the
// queue any more.
//
// Callers that can run now have their turn before it takes: those that the last append has woken publish again at once, and would each time
// find that the next append has just left with one event of the fastest of them. That is no linger: nothing is waited for.
func (q *streamQueue) take() []*pending {
	w := q.writer
	if q.busy {
		q.busy = false
		w.busy.Add(-1)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	q.begun = time.Time{}
	if len(q.events) == 0 {
		q.working = false
		return nil
	}
	w.mu.Unlock()
	runtime.Gosched()
	w.mu.Lock()
	q.busy, q.begun = true, time.Now()
	w.busy.Add(1)
	n, bytes := 0, 0
	for n < len(q.events) && n < flushEvents && (n == 0 || bytes+q.events[n].size() <= flushBytes) && (q.events[n].once == nil) == (q.events[0].once == nil) {
		bytes += q.events[n].size()
		n++
	}
	q.bytes -= int64(bytes)
	w.bytes -= int64(bytes)
	w.events -= n
	batch := slices.Clone(q.events[:n])
	clear(q.events[:n])
	if n < len(q.events) {
		q.events = q.events[n:]
	} else {
		q.events = q.events[:0] // the next one needs no memory of its own
	}
	if w.room != nil {
		close(w.room) // wakes every caller that waits; each looks for itself
		w.room = nil
	}
	return batch
}

// close takes nothing new. Workers end when their queues are empty.
func (w *writer) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	close(w.ready)
}

// slowAppend is how long an append may take before its stream must leave room to others.
const slowAppend = 500 * time.Millisecond

// isSlow reports whether the append under way takes long, or is being repeated. The lock is held.
func (q *streamQueue) isSlow() bool { return !q.begun.IsZero() && time.Since(q.begun) > slowAppend }

// append stores events, repeating the same append while Redis is away, until the bus gives up on it.
func (q *streamQueue) append(batch []*pending) {
	b := q.writer.bus
	state := b.look().of(q.stream)                 // one look, and the same answer for all of them
	spooled, batch := b.spool.divide(state, batch) // Redis has gone away while they were queued, or others of their subject had to be spooled
	b.spool.keep(spooled)
	if len(batch) == 0 {
		return
	}
	q.mark.Seq++
	messages := make([]redisstream.Message, len(batch))
	for i, p := range batch {
		messages[i] = p.message
	}
	if b.link != nil && state.isAway() {
		b.refuse(batch, b.link.unavailable("append")) // it has become so while they were queued
		return
	}
	deadline := time.Now().Add(b.cfg.OutageAfter)
	if err := q.send(withDeadline{b.stopped, deadline}, batch, messages); err != nil {
		q.repeat(deadline, batch, messages, err)
	}
}

// repeat makes an append that failed again while Redis is away, until the deadline.
func (q *streamQueue) repeat(deadline time.Time, batch []*pending, messages []redisstream.Message, err error) {
	b := q.writer.bus
	ctx, cancel := context.WithDeadlineCause(b.stopped, deadline, errOutage)
	defer cancel()
	certain := true // that nothing was stored
	for attempt := 0; ; attempt++ {
		certain = certain && (redisstream.NotSent(err) || b.redis == nil)
		if redisstream.Classify(err) != redisstream.Away || !b.waitForRedis(ctx, q.stream, attempt) {
			q.giveUp(batch, certain, err)
			return
		}
		if err = q.send(ctx, batch, messages); err == nil {
			return
		}
	}
}

// giveUp ends an append that failed. Where Redis is away what may be spooled is.
func (q *streamQueue) giveUp(batch []*pending, certain bool, err error) {
	b := q.writer.bus
	class := redisstream.Classify(err)
	away := class == redisstream.Away || class == redisstream.ReadOnly || errors.Is(err, errOutage) || errors.Is(err, context.DeadlineExceeded)
	if b.spool == nil || !away || b.stopped.Err() != nil {
		b.failed(batch, q.stream, certain, err)
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
		b.failed(others, q.stream, true, err)
		b.spool.keep(spoolable)
	case len(spoolable) == 0:
		b.failed(batch, q.stream, false, err)
	default:
		// The append as a whole is what may have been carried out, so it is what is repeated. This writer goes on under another name: an append of
		// its own would make that one come too late.
		b.failed(others, q.stream, false, err)
		b.spool.keepDoubtful(batch, q.mark, spoolable)
		q.renamed++
		q.mark = redisstream.Writer{Name: fmt.Sprintf("%s.%d", q.writer.name, q.renamed)}
	}
}

// send makes one attempt at an append, and tells the callers if it succeeds.
func (q *streamQueue) send(ctx context.Context, batch []*pending, messages []redisstream.Message) error {
	b := q.writer.bus
	if batch[0].once == nil {
		first, before, err := b.log.Append(ctx, q.stream, q.mark, messages)
		if err == nil {
			b.refusals.taken(q.stream)
			b.confirm(q.stream, q.mark, before, confirmedAppend{first: first, messages: messages})
			b.remember(batch, messages, first)
			b.stored(batch, first)
		}
		return err
	}
	seen := make([]redisstream.Seen, len(batch))
	for i, p := range batch {
		seen[i] = *p.once
	}
	appended, before, err := b.log.AppendOnce(ctx, q.stream, q.mark, messages, seen)
	if err == nil {
		b.refusals.taken(q.stream)
		b.confirm(q.stream, q.mark, before, confirmedOnce(messages, seen, appended)...)
		b.appended(batch, messages, appended)
	}
	return err
}

// confirm notes that Redis has confirmed an append.
func (b *Bus) confirm(stream string, w redisstream.Writer, before uint64, stored ...confirmedAppend) {
	if b.confirmed != nil && b.confirmed.note(stream, w, before, stored...) {
		b.suspectRewind()
	}
}

// withDeadline is a ctx with a deadline and no timer, which costs an append of one event 4 %. The connection keeps to it.
type withDeadline struct {
	context.Context
	at time.Time
}

func (c withDeadline) Deadline() (deadline time.Time, ok bool) { return c.at, true }

// errOutage ends an append that was repeated for long enough.
var errOutage = errors.New("redis does not answer")

// waitForRedis reports whether an append that met an outage should be repeated, after a wait that grows. One failure never
// fails a publish on its own.
func (b *Bus) waitForRedis(ctx context.Context, stream string, attempt int) bool {
	if b.link == nil {
		return false
	}
	b.link.suspect()
	if b.look().of(stream).isAway() {
		return false
	}
	pause := min(10*time.Millisecond<<min(attempt, 6), 500*time.Millisecond)
	return loop.Sleep(ctx, pause/2+rand.N(pause))
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
