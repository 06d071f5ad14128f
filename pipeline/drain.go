package pipeline

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/spool"
)

const (
	// drainRecords and flushBytes bound what one append of the drain carries.
	drainRecords = 256
	// drainTimeout bounds one append.
	drainTimeout = 10 * time.Second
)

// drainer brings the records of a spool to Redis, in their order. It is one writer more: the spool's ID and the number of the record are writer and
// sequence of each append, and each append says which one before it it knows of, so that neither a crash nor a late packet stores an event twice.
type drainer struct {
	*spooling
	reader  *spool.Reader
	known   map[string]uint64 // last append of this spool, by stream
	records []spool.Record    // read, and not drained yet
}

// drainLoop drains whenever there is something to drain and Redis is there.
func (s *spooling) drainLoop() { s.drain(false) }

// drain drains until the bus is closed, or until nothing is left. Live publishes keep half of the server: it rests for as long as it works.
func (s *spooling) drain(untilEmpty bool) {
	d := &drainer{spooling: s, reader: s.log.Reader(), known: map[string]uint64{}}
	defer d.reader.Close()
	backoff := backoffFirst
	for s.bus.stopped.Err() == nil {
		if untilEmpty && s.isEmpty() {
			return
		}
		if s.isEmpty() || s.bus.isAway() {
			if !s.rest() {
				return
			}
			continue
		}
		begun := time.Now()
		idle, err := d.step()
		if err == nil && idle {
			if !s.rest() {
				return
			}
			continue
		}
		if err == nil {
			backoff = backoffFirst
			s.complain(nil)
			if s == s.bus.spool && s.isEmpty() {
				s.bus.link.drained()
			}
			if !sleep(s.bus.stopped, min(time.Since(begun), time.Second)) {
				return
			}
			continue
		}
		s.complain(err)
		s.bus.link.suspect()
		if !sleep(s.bus.stopped, jittered(backoff)) {
			return
		}
		backoff = min(2*backoff, backoffMost)
	}
}

// rest waits until there may be something to drain; false when the bus is closed.
func (s *spooling) rest() bool {
	timer := time.NewTimer(checkSoon)
	defer timer.Stop()
	select {
	case <-s.kick:
		return true
	case <-timer.C:
		return true
	case <-s.bus.stopped.Done():
		return false
	}
}

// complain notes why the drain can't go on, with a line per change.
func (s *spooling) complain(err error) {
	class := redisstream.Classify(err)
	if class == redisstream.Away || class == redisstream.Silent {
		err = nil // the link says so
	}
	s.mu.Lock()
	before := s.stuck
	s.stuck = err
	s.mu.Unlock()
	switch {
	case err != nil && (before == nil || redisstream.Classify(before) != class):
		s.bus.logger.Error("spool can't be drained; it is tried again", "err", err)
	case err == nil && before != nil:
		s.bus.logger.Info("spool is drained again")
	}
}

// step drains one append; idle where there is none, since its record is being written.
func (d *drainer) step() (idle bool, err error) {
	ctx, cancel := context.WithTimeout(d.bus.stopped, drainTimeout)
	defer cancel()
	if len(d.records) == 0 {
		records, err := d.reader.Read(drainRecords)
		if err != nil {
			return false, fmt.Errorf("read spool: %w", err)
		}
		d.records = records
	}
	if len(d.records) == 0 {
		return true, nil
	}
	first, err := d.decode(0)
	if err != nil {
		return false, fmt.Errorf("record %d: %w", d.records[0].Number, err)
	}
	if len(d.reserve([]*spooled{&first})) == 0 {
		return true, nil // a group of this process is handling it
	}
	if first.doubtful.Name != "" {
		if err := d.repeat(ctx, &first); err != nil {
			return false, err
		}
		return false, d.drained([]*spooled{&first})
	}
	return false, d.many(ctx, &first)
}

// decode decodes a record that was read.
func (d *drainer) decode(i int) (spooled, error) {
	r, err := decodeSpooled(d.records[i].Data)
	r.number = d.records[i].Number
	return r, err
}

// repeat is the append of which nobody knows, once more.
func (d *drainer) repeat(ctx context.Context, r *spooled) error {
	messages, seen := d.messages(r)
	if seen[0].Key != "" {
		appended, before, err := d.bus.log.AppendOnce(ctx, r.stream, r.doubtful, messages, seen)
		if err != nil {
			return err
		}
		d.bus.confirm(r.stream, r.doubtful, before, confirmedOnce(messages, seen, appended)...)
		d.refused(r, appended)
		return nil
	}
	first, before, err := d.bus.log.Append(ctx, r.stream, r.doubtful, messages)
	if err == nil {
		d.bus.confirm(r.stream, r.doubtful, before, confirmedAppend{first: first, messages: messages})
	}
	return err
}

// refused says which events were not stored since their key had been used for something else: what the caller would have been told.
func (d *drainer) refused(r *spooled, appended []redisstream.Appended) {
	for i, a := range appended {
		if a.Conflict {
			d.bus.logger.Error("spooled event is not stored: its idempotency key was used for another one", "stream", r.stream, "id", r.events[i].message.UUID, "other", a.UUID)
			d.bus.lose(Loss{Stream: r.stream, Reason: ReasonConflict, Events: 1, From: positionOf(a.ID), To: positionOf(a.ID), Time: time.Now().UTC()})
		}
	}
}

// messages is what a record holds, as it goes to Redis; seen with an empty key where it is not appended once.
func (s *spooling) messages(r *spooled) (messages []redisstream.Message, seen []redisstream.Seen) {
	for _, e := range r.events {
		if r.doubtful.Name != "" {
			messages = append(messages, e.message) // the same append again
		} else {
			messages = append(messages, e.marked(s.log.ID(), r.number, s.handledBy(r.number)))
		}
		var one redisstream.Seen
		if e.once != nil {
			one = *e.once
		}
		seen = append(seen, one)
	}
	return messages, seen
}

// many drains the first record with those that follow it at once, of the same stream and kind.
func (d *drainer) many(ctx context.Context, first *spooled) error {
	batch, bytes := []*spooled{first}, first.size()
	for i := 1; i < len(d.records); i++ {
		r, err := d.decode(i)
		if err != nil || r.stream != first.stream || r.doubtful.Name != "" || r.once() != first.once() || bytes+r.size() > flushBytes {
			break
		}
		bytes += r.size()
		batch = append(batch, &r)
	}
	batch = d.reserve(batch)
	known, ok := d.known[first.stream]
	if !ok {
		last, err := d.bus.redis.LastAppends(ctx, first.stream, d.log.ID())
		if err != nil {
			return err
		}
		known = last[0]
	}
	w := redisstream.Writer{Name: d.log.ID(), Seq: d.records[len(batch)-1].Number}
	from := 0
	for done := false; !done; {
		// What was drained without an answer, or by a process before this one, is passed over. An append of events that go once is answered again.
		passed := from
		for from < len(batch) && d.records[from].Number <= known && !(first.once() && known == w.Seq) {
			from++
		}
		if from > passed {
			d.passed(redisstream.Writer{Name: w.Name, Seq: d.records[from-1].Number}, known, batch[passed:from])
		}
		if from == len(batch) {
			break
		}
		var err error
		if done, known, err = d.send(ctx, w, known, batch[from:]); err != nil {
			delete(d.known, first.stream) // it may have been carried out
			return err
		}
		d.known[first.stream] = known
	}
	return d.drained(batch)
}

// passed keeps what was drained and not confirmed like what was, so that it is restored should Redis forget it: from a place that nobody knows.
func (d *drainer) passed(w redisstream.Writer, known uint64, batch []*spooled) {
	var appends []confirmedAppend
	for _, r := range batch {
		messages, seen := d.messages(r)
		a := confirmedAppend{messages: messages}
		if r.once() {
			a.seen = &seen[0]
		}
		appends = append(appends, a)
	}
	d.bus.confirm(batch[0].stream, w, known, appends...)
}

// send makes one append of the records, all of one stream and kind, if the last one before it was known.
func (d *drainer) send(ctx context.Context, w redisstream.Writer, known uint64, batch []*spooled) (done bool, last uint64, err error) {
	var messages []redisstream.Message
	var seen []redisstream.Seen
	for _, r := range batch {
		m, s := d.messages(r)
		messages, seen = append(messages, m...), append(seen, s...)
	}
	if !batch[0].once() {
		done, last, id, err := d.bus.redis.Drain(ctx, batch[0].stream, w, known, messages)
		switch {
		case err != nil:
		case done:
			d.bus.confirm(batch[0].stream, w, known, confirmedAppend{first: id, messages: messages})
			d.placed(batch, id)
		case d.bus.confirmed.heard(batch[0].stream, w.Name, last):
			d.bus.suspectRewind()
		}
		return done, last, err
	}
	// A packet of a process before this one that comes late now is found by the keys.
	appended, before, err := d.bus.redis.AppendOnce(ctx, batch[0].stream, w, messages, seen)
	if err == nil {
		d.bus.confirm(batch[0].stream, w, before, confirmedOnce(messages, seen, appended)...)
	}
	for i, r := range batch[:min(len(batch), len(appended))] {
		d.refused(r, appended[i:i+1])
	}
	return err == nil, w.Seq, err
}

// once reports whether the record is appended only if none with its key was.
func (r *spooled) once() bool { return r.events[0].once != nil }

func (r *spooled) size() int {
	m := &r.events[0].message
	return len(m.UUID) + len(m.Metadata) + len(m.Payload)
}

// drained gives back the room of records that are in Redis.
func (d *drainer) drained(batch []*spooled) error {
	last := d.records[len(batch)-1].Number
	d.records = d.records[len(batch):]
	for _, r := range batch {
		d.let(r, true)
	}
	if left := slices.DeleteFunc(slices.Clone(batch), func(r *spooled) bool { return r.placed }); len(left) > 0 {
		d.placed(left, redisstream.ID{})
	}
	if d.isEmpty() {
		d.reader.Close() // a segment that is open keeps its room on the disk
	}
	if err := d.log.Drained(last); err != nil {
		return fmt.Errorf("give room of the spool back: %w", err)
	}
	return nil
}
