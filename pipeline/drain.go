package pipeline

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rishi-platform/millrace/internal/loop"
	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/spool"
)

// drainer brings the records of a spool to Redis: those of a stream in their order, and streams side by
// side. It is one writer more: the spool's ID and the number of a record are writer and sequence of each
// append, and each append says which one before it at its stream it knows of, so that neither a crash nor
// a late packet stores an event twice.
//
// It reads ahead: a window of records, by stream. An append takes all that is there of a stream and may go
// together, so that a spool of many streams drains about as fast as one of a single stream. A stream that
// Redis refuses is set aside: its records leave the window, so that others go on, and when its time has
// come the window goes back to the first of them.
//
// It does not rest for the sake of those who publish meanwhile: what it has not drained yet holds back
// whoever publishes to the same subjects.
type drainer struct {
	*spooling
	reader  *spool.Reader
	next    uint64 // of the reader: what stands before it was read
	streams map[string]*drainStream
	turns   []*drainStream // the same, in the order in which they have their turn
	records int            // in the window
	bytes   int
	damaged time.Time // when the spool is read again, where that failed; zero: it did not
	away    time.Time // when Redis is tried again, where it was away
	backoff loop.Backoff
	freed   time.Time // when room was given back last, or could not be
	gone    uint64    // up to which record it was
	unfreed bool      // it could not be
	healed  time.Time // when it was tried last whether a disk that refused takes writes again

	appends sync.WaitGroup
	busy    int
	results chan drained
}

// drainStream is one stream of the spool.
type drainStream struct {
	name    string
	records []*spooled // in the window, in their order; those of an append under way come first
	bytes   int
	upTo    uint64 // number of the last record that has been in the window
	busy    bool   // an append is under way
	id      string // whose records are drained: those of the process before this one, say
	known   uint64 // the last append of these at this stream, as far as one knows; see sure
	sure    bool

	aside   time.Time // it is left alone until then
	backoff loop.Backoff
	skipped *spooled // the first record that has left the window, or was not let into it; nil: none
}

// drained is the result of an append.
type drained struct {
	stream *drainStream
	batch  []*spooled // what is in Redis now, the first ones of those that were sent
	err    error
}

const (
	// drainAppends is how many appends of a drain are under way at most. Each holds the server up for a
	// millisecond or two, and those who publish come in between.
	drainAppends = 4
	// drainRecords and flushBytes bound one append.
	drainRecords = 256
	// windowRecords and windowBytes bound what is read ahead.
	windowRecords = 4096
	windowBytes   = 4 << 20
	// fillPages is how many MiB are read at once before those are looked at that are in the window by then.
	fillPages = 8
	// drainTimeout bounds one append.
	drainTimeout = 10 * time.Second
	// drainAside is the longest time for which a stream is left alone that Redis refuses.
	drainAside = 30 * time.Second
	// freeEvery is how often the room of what is drained is given back, at most.
	freeEvery = 200 * time.Millisecond
	// healEvery is how often a disk that refused is tried.
	healEvery = 2 * time.Second
)

// drainLoop drains whenever there is something to drain and Redis is there.
func (s *spooling) drainLoop() { s.drain(false) }

// drain drains until the bus is closed, or until nothing is left.
func (s *spooling) drain(untilEmpty bool) {
	d := newDrainer(s)
	defer d.close()
	for s.bus.stopped.Err() == nil && !(untilEmpty && s.isEmpty() && !d.unfreed && !s.hasLost()) {
		more := false
		if (!s.isEmpty() || s.hasLost()) && !s.bus.isAway() && !time.Now().Before(d.away) {
			more = d.fill()
			for d.start() {
				more = d.fill()
			}
		}
		if (d.unfreed || d.hasLost() || d.isReleased(d.gone)) && time.Since(d.freed) >= checkSoon {
			d.free()
		}
		d.heal(time.Now())
		if !more {
			d.wait(d.untilNext(time.Now()))
		} else {
			d.wait(0)
		}
	}
}

func newDrainer(s *spooling) *drainer {
	d := &drainer{spooling: s, reader: s.log.Reader(), streams: map[string]*drainStream{}, results: make(chan drained, drainAppends)}
	d.next = s.log.Stats().First
	return d
}

// close waits for the appends under way, whose ctx ends with the bus.
func (d *drainer) close() {
	d.appends.Wait()
	d.reader.Close()
}

// wait waits until something has ended, or something may begin, for no longer than the given time.
func (d *drainer) wait(most time.Duration) {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case r := <-d.results:
		d.finish(r)
	case <-d.kick:
	case <-timer.C:
	case <-d.bus.stopped.Done():
	}
}

// untilNext is how long nothing may begin, as far as time decides.
func (d *drainer) untilNext(now time.Time) time.Duration {
	until := checkSoon
	for _, at := range []time.Time{d.away, d.damaged} {
		if at.After(now) {
			until = min(until, at.Sub(now))
		}
	}
	for _, s := range d.turns {
		if s.aside.After(now) {
			until = min(until, s.aside.Sub(now))
		}
	}
	return until
}

// fill reads ahead, where the window is less than half full, and reports whether it has stopped before it is, so that
// those are looked at first that are there.
func (d *drainer) fill() (more bool) {
	now := time.Now()
	if now.Before(d.damaged) {
		return false
	}
	d.goBack(now)
	for pages := 0; d.records < windowRecords/2 && d.bytes < windowBytes/2; pages++ {
		if pages == fillPages {
			return true
		}
		records, err := d.reader.Read(windowRecords - d.records)
		if d.isDamage(err) {
			continue
		}
		if err != nil {
			d.damaged = now.Add(drainAside)
			d.complain(stuckRead, fmt.Errorf("read spool: %w", err))
			return false
		}
		d.complain(stuckRead, nil)
		if len(records) == 0 {
			d.next = max(d.next, d.reader.Next()) // behind what is lost
			return false
		}
		for _, record := range records {
			if record.Number == d.unreadable {
				d.next = max(d.next, record.Number) // also behind what is lost
				d.reader.Seek(record.Number)
				return false
			}
			r, err := decodeSpooled(record.Data)
			if err != nil { // this process has written it
				d.reader.Seek(record.Number)
				d.damaged = now.Add(drainAside)
				d.complain(stuckRead, fmt.Errorf("read spool: record %d: %w", record.Number, err))
				return false
			}
			r.id, r.number = record.ID, record.Number
			if r.discarded == 0 {
				d.take(&r, now)
			}
			d.next = record.Number + 1
		}
	}
	return false
}

// goBack has the reader begin again at the first record that was skipped of a stream whose time has come.
func (d *drainer) goBack(now time.Time) {
	back, look := d.next, d.bus.look()
	for _, s := range d.turns {
		if s.skipped != nil && !now.Before(s.aside) && !look.of(s.name).isAway() {
			back = min(back, s.skipped.number)
			s.skipped = nil
		}
	}
	if back < d.next {
		d.reader.Seek(back)
		d.next = back
	}
}

// take takes a record into the window, unless it has been there, or its stream is set aside.
func (d *drainer) take(r *spooled, now time.Time) {
	s := d.streams[r.stream]
	if s == nil {
		s = &drainStream{name: r.stream}
		d.streams[r.stream] = s
		d.turns = append(d.turns, s)
	}
	switch {
	case r.number <= s.upTo:
	case s.skipped != nil:
	case now.Before(s.aside):
		s.skipped = r
	default:
		s.records = append(s.records, r)
		s.upTo = r.number
		d.count(s, 1, r.size())
	}
}

// count adds to what is in the window.
func (d *drainer) count(s *drainStream, records, bytes int) {
	s.bytes += bytes
	d.records += records
	d.bytes += bytes
}

// setAside leaves a stream alone for a while. What the window holds of it makes room for others.
func (d *drainer) setAside(s *drainStream, until time.Time) {
	s.aside = until
	if len(s.records) == 0 {
		return
	}
	s.skipped = s.records[0]
	s.upTo = s.skipped.number - 1
	d.count(s, -len(s.records), -s.bytes)
	s.records = nil
}

// start begins appends, of as many streams as may have one under way; each stream in its turn. It reports whether nothing could begin, and
// the window has room for other streams now.
func (d *drainer) start() (room bool) {
	now, look := time.Now(), d.bus.look()
	for _, s := range slices.Clone(d.turns) {
		if d.busy == drainAppends {
			return false
		}
		if s.busy || len(s.records) == 0 || now.Before(s.aside) {
			continue
		}
		if look.of(s.name).isAway() { // its shard, and others are not
			d.setAside(s, now.Add(checkSoon))
			room = true
			continue
		}
		batch := d.reserve(s.together())
		if len(batch) == 0 { // a group of this process is handling the first one, and kicks when it has
			if d.records >= windowRecords/2 || d.bytes >= windowBytes/2 {
				d.setAside(s, now.Add(checkSoon))
				room = true
			}
			continue
		}
		i := slices.Index(d.turns, s)
		d.turns = append(slices.Delete(d.turns, i, i+1), s)
		s.busy = true
		d.busy++
		d.appends.Go(func() { d.results <- d.append(s, batch) })
	}
	return room && d.busy == 0
}

// together returns the first records of a stream that one append may carry.
func (s *drainStream) together() []*spooled {
	first := s.records[0]
	if first.doubtful.Name != "" {
		return s.records[:1]
	}
	bytes := first.size()
	for i, r := range s.records[1:] {
		bytes += r.size()
		if i+1 == drainRecords || bytes > flushBytes || r.doubtful.Name != "" || r.once() != first.once() || r.id != first.id {
			return s.records[:i+1]
		}
	}
	return s.records
}

// finish takes the result of an append.
func (d *drainer) finish(r drained) {
	s := r.stream
	s.busy = false
	d.busy--
	bytes := 0
	for _, one := range r.batch {
		bytes += one.size()
	}
	s.records = s.records[len(r.batch):]
	d.count(s, -len(r.batch), -bytes)
	d.settled(r.batch)
	d.failed(s, r.err)
	d.free()
}

// failed notes how an append has ended: nil is success.
func (d *drainer) failed(s *drainStream, err error) {
	now := time.Now()
	switch class := redisstream.Classify(err); {
	case err == nil:
		d.backoff.Reset()
		s.backoff.Reset()
		d.complain(s.name, nil)
		return
	case d.bus.stopped.Err() != nil:
		return
	case (class == redisstream.Away || class == redisstream.Silent) && d.bus.redis.IsCluster(): // the link says so, of the shard
		if s.backoff.IsLong() && !d.bus.look().of(s.name).isAway() {
			d.complain(s.name, err) // it is a slot that no shard serves, say
		}
		d.setAside(s, now.Add(s.backoff.Next()))
	case class == redisstream.Away, class == redisstream.Silent: // the link says so
		d.away = now.Add(d.backoff.Next())
	default:
		most := drainAside
		if class == redisstream.BackPressure { // not for good
			most = loop.BackoffMost
		}
		d.complain(s.name, err)
		d.setAside(s, now.Add(s.backoff.Within(most)))
	}
	d.bus.link.suspect()
}

// free gives back the room of all that stands before the first record that is not drained.
func (d *drainer) free() {
	first, oldest := d.next, time.Time{}
	for _, s := range d.turns {
		for _, r := range []*spooled{s.skipped, s.head()} {
			if r != nil && r.number < first {
				first = r.number
			}
			if r != nil && (oldest.IsZero() || r.at.Before(oldest)) {
				oldest = r.at
			}
		}
	}
	empty := d.drainedBefore(first, oldest)
	if empty {
		d.reader.Close() // a segment that is open keeps its room on the disk
	}
	if !empty && time.Since(d.freed) < freeEvery {
		return
	}
	d.freed, d.unfreed = time.Now(), false
	d.gone = d.mayGo(first - 1)
	if err := d.log.Drained(d.gone); err != nil {
		d.unfreed = true
		d.complain(stuckRoom, fmt.Errorf("give room of the spool back: %w", err))
	} else {
		d.complain(stuckRoom, nil)
	}
	if empty && d.spooling == d.bus.spool {
		d.bus.link.drained()
	}
}

// heal finds out from time to time whether a disk that refused takes writes again: nothing may be written for a long time.
func (d *drainer) heal(now time.Time) {
	if d.log.Stats().Err != nil && now.Sub(d.healed) >= healEvery {
		d.healed = now
		_ = d.log.Heal() // what it found out the next report says
	}
}

// head is the first record in the window; nil where there is none.
func (s *drainStream) head() *spooled {
	if len(s.records) == 0 {
		return nil
	}
	return s.records[0]
}

// append brings records of one stream, all of one kind, to Redis.
func (d *drainer) append(s *drainStream, batch []*spooled) drained {
	ctx, cancel := context.WithTimeout(d.bus.stopped, drainTimeout)
	defer cancel()
	if batch[0].doubtful.Name != "" {
		if err := d.repeat(ctx, batch[0]); err != nil {
			return drained{s, nil, err}
		}
		return drained{s, batch, nil}
	}
	n, err := d.many(ctx, s, batch)
	return drained{s, batch[:n], err}
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
			messages = append(messages, e.marked(r.id, r.number, s.handledBy(r.number)))
		}
		var one redisstream.Seen
		if e.once != nil {
			one = *e.once
		}
		seen = append(seen, one)
	}
	return messages, seen
}

// many makes appends of the records, all of one stream and kind, until they are in Redis. It returns how
// many are.
func (d *drainer) many(ctx context.Context, s *drainStream, batch []*spooled) (done int, err error) {
	id := batch[0].id
	if !s.sure || s.id != id {
		last, err := d.bus.redis.LastAppends(ctx, s.name, id)
		if err != nil {
			return 0, err
		}
		s.id, s.known, s.sure = id, last[0], true
	}
	if i := slices.IndexFunc(batch, func(r *spooled) bool { return r.once() && r.number == s.known }); i >= 0 {
		batch = batch[:i+1] // its answer was lost: the same append again is answered
	}
	w := redisstream.Writer{Name: id, Seq: batch[len(batch)-1].number}
	once := batch[0].once()
	for {
		// What was drained without an answer, or by a process before this one, is passed over. An append of events that go once is answered again.
		passed := done
		for done < len(batch) && batch[done].number <= s.known && !(once && s.known == w.Seq) {
			done++
		}
		if done > passed {
			d.passed(redisstream.Writer{Name: w.Name, Seq: batch[done-1].number}, s.known, batch[passed:done])
		}
		if done == len(batch) {
			return done, nil
		}
		sent, known, err := d.send(ctx, w, s.known, batch[done:])
		if err != nil {
			s.sure = false // it may have been carried out
			return done, err
		}
		s.known = known
		if sent {
			return len(batch), nil
		}
	}
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

// size is about how many bytes an append of it takes.
func (r *spooled) size() (n int) {
	for i := range r.events {
		m := &r.events[i].message
		n += len(m.UUID) + len(m.Metadata) + len(m.Payload)
	}
	return n
}

// stuck is what keeps a drain from going on, by stream, or for what concerns the spool itself.
type stuck map[string]error

// The keys of what concerns the spool itself: no stream is called so.
const (
	stuckRead = "/read"
	stuckRoom = "/room"
)

// first returns one of the reasons, with its stream.
func (s stuck) first() (stream string, err error) {
	for name, reason := range s {
		if err == nil || name < stream {
			stream, err = name, reason
		}
	}
	return stream, err
}

// text says what is stuck, and why.
func (s stuck) text() string {
	stream, err := s.first()
	text := err.Error()
	if !strings.HasPrefix(stream, "/") {
		text = fmt.Sprintf("stream %s: %v", stream, err)
	}
	if more := len(s) - 1; more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	return text
}

// complain notes why a stream can't be drained, though Redis is there, or that it can: a line in the log
// per change.
func (s *spooling) complain(stream string, err error) {
	s.mu.Lock()
	before := s.stuck[stream]
	if err == nil {
		delete(s.stuck, stream)
	} else {
		s.stuck[stream] = err
	}
	s.mu.Unlock()
	switch {
	case err != nil && (before == nil || redisstream.Classify(before) != redisstream.Classify(err)):
		s.bus.logger.Error("spool can't be drained; it is tried again", "stream", stream, "dir", s.log.Dir(), "err", err)
	case err == nil && before != nil:
		s.bus.logger.Info("spool is drained again", "stream", stream)
	}
}
