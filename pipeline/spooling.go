package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rishi-platform/millrace/internal/memstream"
	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/spool"
	"github.com/rishi-platform/millrace/internal/wire"
)

// spooling keeps events on disk while Redis is away, and brings them there when it is back (DESIGN §9).
//
// An event goes into the spool when Redis is away, and when an event of its subject is there still, so that those of a subject keep their order. An
// append whose outcome nobody knows goes there as it was, and is repeated as it was.
type spooling struct {
	bus  *Bus
	log  *spool.Log
	kick chan struct{} // asks drainLoop to look

	mu     sync.Mutex // guards what follows
	held   backlog
	oldest time.Time // when the oldest record that is not drained was accepted; zero: none is known
	stuck  stuck     // why the drain can't go on, though Redis is there
	// drained is up to which record each stream is drained.
	drained map[string]uint64
	// unreadable is the first record that this version can't decode, 0: none. It stays, with all that stands behind it: whoever drains it
	// some day must find that nothing has overtaken it.
	unreadable uint64
	behind     uint64 // how many records stay
	// lostHeld: what is held may stand for records that are lost, or there are records that nothing is held for. appending is how many records are on their way to the disk.
	lostHeld  bool
	appending int
	// damages are those in which accepted events were lost, also of spools that were adopted: the first maxDamages.
	damages []spool.Damage

	fallback fallback
	keepsake keepsake

	slots slots
}

// openSpool opens the spool of a bus, with what a process before it has left there.
func openSpool(b *Bus) (*spooling, error) {
	left := map[string]bool{} // what goes there would stand behind what can't be read
	server := b.identify(spool.Server{Address: b.address()})
	for {
		var s *spooling // there before anything is appended
		log, err := spool.Open(b.spoolDir(), server, spool.Options{
			Max: b.cfg.SpoolBytes, Except: func(dir string) bool { return left[dir] }, Damaged: func(d spool.Damage) { s.damaged(d) },
		})
		if err != nil {
			return nil, err
		}
		s, err = newSpooling(b, log)
		if err != nil {
			left[log.Dir()] = true // it was readable a moment ago: whoever adopts it says what the matter is
			continue
		}
		if s.unreadable > 0 {
			left[log.Dir()] = true // until it is adopted, for what stands before
			if err := log.Close(); err != nil {
				return nil, err
			}
			continue
		}
		s.slots.server = server
		s.survey()
		return s, nil
	}
}

// spoolDir is where the slots of this bus and its siblings are.
func (b *Bus) spoolDir() string {
	return filepath.Join(b.cfg.SpoolDir, cmp.Or(b.cfg.Namespace, "default"))
}

// newSpooling reads what is in a spool.
func newSpooling(b *Bus, log *spool.Log) (*spooling, error) {
	s := &spooling{bus: b, log: log, kick: make(chan struct{}, 1), stuck: stuck{}, drained: map[string]uint64{}}
	s.fallback.sending = map[string]uint64{}
	s.damaged(log.Damages()...)
	r := log.Reader()
	defer r.Close()
	n, discarded, places := 0, map[string]int{}, map[string]string{} // events; by stream those that were discarded, and the first place
	for {
		records, err := r.Read(math.MaxInt) // a stretch of bytes at a time
		if s.isDamage(err) {
			continue
		}
		if err != nil {
			return nil, errors.Join(err, log.Close())
		}
		if len(records) == 0 {
			break
		}
		s.fallback.sentTo = records[len(records)-1].Number
		for _, one := range records {
			record, err := decodeSpooled(one.Data)
			if err != nil && s.unreadable == 0 {
				s.unreadable = one.Number
			}
			if s.unreadable > 0 {
				s.behind++
				continue
			}
			if record.discarded > 0 {
				if discarded[record.stream] += record.discarded; places[record.stream] == "" {
					places[record.stream] = spoolMark(one.ID, one.Number)
				}
				continue
			}
			s.hold(&record)
			n += len(record.events)
		}
	}
	s.lostHeld = s.lostHeld || len(discarded) > 0
	for _, stream := range slices.Sorted(maps.Keys(discarded)) {
		if !b.losses.isNew(stream + " " + places[stream]) {
			continue
		}
		b.logger.Warn("events were discarded from the spool", "stream", stream, "events", discarded[stream], "dir", log.Dir())
		b.lose(Loss{Stream: stream, Reason: ReasonDiscarded, Events: discarded[stream], Time: time.Now().UTC()})
	}
	if s.unreadable > 0 {
		b.logger.Error("spool has a record that this version can't read: it stays, with what stands behind it", "record", s.unreadable, "records", s.behind, "dir", log.Dir())
	}
	if n > 0 {
		b.logger.Warn("spool holds events of a process that has ended; they are drained", "events", n, "dir", log.Dir())
	}
	return s, nil
}

// damaged logs what can't be read in a spool, and where accepted events are lost it counts them and keeps it for health.
func (s *spooling) damaged(damages ...spool.Damage) {
	for _, d := range damages {
		s.bus.logger.Error("spool was damaged", "damage", d.String())
		if d.Torn {
			continue
		}
		s.mu.Lock()
		s.keepDamages([]spool.Damage{d})
		s.lostHeld = true
		s.mu.Unlock()
		if s.bus.losses.isNew(d.String()) { // a slot that is left is opened again
			s.bus.lose(Loss{Reason: ReasonDamaged, Events: int(max(1, d.Records)), AtLeast: true, Time: time.Now().UTC()})
		}
	}
}

// isDamage reports whether an error of a reader is about records that are lost, and counts them then. What of their subjects is to
// follow them waits until all that is left is drained, since nobody knows their subjects any more.
func (s *spooling) isDamage(err error) bool {
	var d spool.Damage
	if !errors.As(err, &d) {
		return false
	}
	s.damaged(d)
	if _, bare := err.(spool.Damage); !bare {
		s.bus.logger.Error("what could not be read of the spool is not kept", "err", err)
	}
	return true
}

// keepDamages keeps damages for health, each once: a slot that is left is opened again. The lock is held.
func (s *spooling) keepDamages(damages []spool.Damage) {
	for _, d := range damages {
		if len(s.damages) < maxDamages && !slices.Contains(s.damages, d) {
			s.damages = append(s.damages, d)
		}
	}
}

// maxDamages is how many damages health shows: the first ones. The log has all.
const maxDamages = 20

// count is how many events are to be drained.
func (s *spooling) count() (n int64) {
	s.mu.Lock()
	adopted := slices.Collect(maps.Values(s.slots.adopted))
	n = s.held.events
	s.mu.Unlock()
	for _, of := range adopted {
		if of != nil {
			n += of.count()
		}
	}
	return n
}

// hold notes that a record is in the spool, let that it is not any more: it was drained, or could not be kept.
func (s *spooling) hold(r *spooled) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held.add(r)
	if s.oldest.IsZero() {
		s.oldest = r.at
	}
}

func (s *spooling) let(records []*spooled) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range records {
		s.held.remove(r)
	}
	if s.held.isEmpty() {
		s.oldest = time.Time{}
	}
}

// settled notes that records are in Redis.
func (s *spooling) settled(records []*spooled) {
	if left := slices.DeleteFunc(slices.Clone(records), func(r *spooled) bool { return r.placed }); len(left) > 0 {
		s.placed(left, redisstream.ID{})
	}
	s.let(records)
}

// drainedBefore notes that all before a record is drained, and when the oldest that is not was accepted, as far as that is known. It
// reports whether nothing is left.
func (s *spooling) drainedBefore(number uint64, oldest time.Time) (empty bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetHandled(number - 1)
	if s.lostHeld && s.appending == 0 && (number == s.log.Stats().Next || s.unreadable > 0 && number == s.unreadable) { // there are no others to drain
		s.held.clear()
		s.lostHeld, s.oldest = false, time.Time{}
	}
	if empty = s.held.isEmpty(); !empty && !oldest.IsZero() {
		s.oldest = oldest
	}
	return empty
}

// hasDrained reports whether a record is drained, whose room may not be given back yet. The lock is held.
func (s *spooling) hasDrained(stream string, number uint64) bool { return number <= s.drained[stream] }

// isEmpty reports whether nothing is to be drained.
func (s *spooling) isEmpty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held.isEmpty()
}

// mustHold reports whether an event has to go behind others of its subject. Those without a subject have no order to keep.
func (s *spooling) mustHold(p *pending) bool {
	if p.subject == "" {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held.has(subjectKey{p.stream, p.subject})
}

// awaitTurn waits while events of the same subjects are on their way from the spool to Redis, so that these
// follow them there, instead of going behind them into the spool, which would never become empty where a
// subject is published to all the time. It waits for no longer than an append may take in an outage, and
// not at all in one, nor for a stream that Redis refuses, nor while a handler of this process has an event
// from the spool. What the bus says of itself goes behind what it has said before.
func (s *spooling) awaitTurn(ctx context.Context, events []pending) {
	free := s.turnOf(events)
	if free == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, s.bus.cfg.OutageAfter)
	defer cancel()
	look := time.NewTicker(checkSoon / 2)
	defer look.Stop()
	for ; free != nil; free = s.turnOf(events) {
		select {
		case <-free:
		case <-look.C: // the state may have changed
		case <-ctx.Done():
			return
		case <-s.bus.stopped.Done():
			return
		}
	}
}

// turnOf returns what is closed when it may be the turn of these events; nil where they need not wait.
func (s *spooling) turnOf(events []pending) <-chan struct{} {
	if s.bus.State() != StateDraining {
		return nil
	}
	look := s.bus.look()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.fallback.running) > 0 || s.stuck[stuckRead] != nil {
		return nil
	}
	for i := range events {
		p := &events[i]
		if look.of(p.stream).isAway() {
			continue
		}
		if !p.spoolable || p.subject == "" || p.stream == SystemStream || s.stuck[p.stream] != nil {
			continue
		}
		if free := s.held.wait(subjectKey{p.stream, p.subject}); free != nil {
			return free
		}
	}
	return nil
}

// takes reports whether an event goes into the spool in this state, instead of to Redis.
func (s *spooling) takes(state State, p *pending) bool {
	return s != nil && p.spoolable && (state == StateSpooling || s.mustHold(p))
}

// isIdle reports whether nothing goes into the spool now.
func (s *spooling) isIdle(look outlook) bool {
	return s == nil || look.state != StateSpooling && look.partly == nil && s.isEmpty()
}

// divide takes those events out of a batch, all of one stream, that go into the spool in its state. It is asked for each append.
func (s *spooling) divide(state State, events []*pending) (spooled, others []*pending) {
	if s == nil || state != StateSpooling && s.isEmpty() {
		return nil, events
	}
	for i, p := range events {
		if !s.takes(state, p) {
			if spooled != nil {
				others = append(others, p)
			}
			continue
		}
		if spooled == nil {
			others = append([]*pending(nil), events[:i]...)
		}
		spooled = append(spooled, p)
	}
	if spooled == nil {
		others = events
	}
	return spooled, others
}

// keep spools events that certainly are not in Redis. Their callers are told when they are on disk.
func (s *spooling) keep(events []*pending) {
	if s == nil || len(events) == 0 {
		return
	}
	now := time.Now()
	records := make([]*spooled, len(events))
	for i, p := range events {
		records[i] = &spooled{stream: p.stream, at: now, events: []spooledEvent{{p.subject, p.message, p.once}}}
	}
	s.append(events, records)
}

// keepDoubtful spools an append of which nobody knows whether it was carried out. The callers of some of its events are told.
func (s *spooling) keepDoubtful(batch []*pending, of redisstream.Writer, callers []*pending) {
	record := &spooled{stream: batch[0].stream, at: time.Now(), doubtful: of}
	for _, p := range batch {
		record.events = append(record.events, spooledEvent{p.subject, p.message, p.once})
	}
	s.append(callers, []*spooled{record})
}

func (s *spooling) append(events []*pending, records []*spooled) {
	s.onItsWay(len(records)) // first: what is held meanwhile is not taken for what is lost
	data := make([][]byte, len(records))
	for i, r := range records {
		r.id = s.log.ID()
		data[i] = r.encode()
		s.hold(r) // before it can be drained
	}
	s.log.Append(data, func(first uint64, err error) {
		defer s.onItsWay(-len(records))
		if err != nil {
			s.refuse(events, records, err)
			return
		}
		for i, r := range records {
			r.number = first + uint64(i)
			s.announce(r)
		}
		s.wake()
		s.tell()
		s.bus.published.add(Spooled, len(events))
		for _, p := range events {
			p.call.set(p.index, func(o *Outcome) { o.Durability, o.Err = Spooled, nil })
		}
	})
}

// hasLost reports whether what is held may stand for records that are lost.
func (s *spooling) hasLost() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lostHeld
}

// onItsWay counts records that are on their way to the disk.
func (s *spooling) onItsWay(records int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.appending += records
}

// announce lets the subscriptions of this process hear what is on disk. An event that may be in Redis already they hear from there, and so they
// do where it has been drained meanwhile.
func (s *spooling) announce(r *spooled) {
	if !r.certain() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.number <= s.drained[r.stream] {
		return
	}
	_, _, err := s.bus.local.Append(s.bus.stopped, r.stream, redisstream.Writer{}, []redisstream.Message{r.events[0].marked(r.id, r.number, "")})
	if err != nil && !errors.Is(err, redisstream.ErrClosed) {
		s.bus.logger.Error("spooled event is not heard by subscriptions until it is drained", "stream", r.stream, "id", r.events[0].message.UUID, "err", err)
	}
}

// placed notes that records of one stream are drained, and where their events stand: from first on, or nowhere that is known where it is zero. It is
// called once for each.
func (s *spooling) placed(batch []*spooled, first redisstream.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var places []memstream.Placed
	for i, r := range batch {
		r.placed = true
		s.drained[r.stream] = r.number
		if r.certain() {
			p := memstream.Placed{UUID: r.events[0].message.UUID, Mark: spoolMark(r.id, r.number)}
			if !first.IsZero() {
				p.At = first.Plus(i)
			}
			places = append(places, p)
		}
	}
	if len(places) > 0 {
		s.bus.local.Place(batch[0].stream, places)
	}
}

// numberOf returns the number of the record that an event stood in, if that was in this spool.
func (s *spooling) numberOf(d *wire.Decoded) (number uint64, ours bool) {
	if s == nil || d.Spool == "" {
		return 0, false
	}
	text, ours := strings.CutPrefix(d.Spool, s.log.ID()+"/")
	number, err := strconv.ParseUint(text, 10, 64)
	return number, ours && err == nil
}

// refuse ends events that could not be spooled.
func (s *spooling) refuse(events []*pending, records []*spooled, err error) {
	s.let(records)
	kind, hint := ErrSpoolFailed, "is the disk full, or the folder gone?"
	if errors.Is(err, spool.ErrFull) {
		kind, hint = ErrSpoolFull, "bring Redis back, or give the spool more room"
	}
	if errors.Is(err, spool.ErrClosed) {
		kind, hint = ErrClosed, ""
	}
	durability := Refused
	if records[0].doubtful.Name != "" { // it may be in Redis
		durability, kind, hint = Unknown, ErrUnknown, "publish it again with the same id and PublishOptions.Once"
	}
	s.bus.published.add(durability, len(events))
	for _, p := range events {
		p.call.set(p.index, func(o *Outcome) {
			o.Durability, o.Err = durability, &RedisError{Op: "spool", Key: p.stream, Kind: kind, Err: err, Hint: hint}
		})
	}
}

// trouble returns why the spool can't take an event now; nil where it can. Room for a large event is asked for, or for a tenth of a small spool.
func (s *spooling) trouble() error {
	stats := s.log.Stats()
	switch {
	case stats.Err != nil:
		return fmt.Errorf("%w: %w", ErrSpoolFailed, stats.Err)
	case stats.Max-stats.Bytes < min(int64(s.bus.cfg.MaxDataBytes), stats.Max/10):
		return fmt.Errorf("%w: %d of %d bytes", ErrSpoolFull, stats.Bytes, stats.Max)
	}
	return nil
}

// wake asks drainLoop to look.
func (s *spooling) wake() {
	select {
	case s.kick <- struct{}{}:
	default: // it has been asked already
	}
}

// health describes the spool, with its problems.
func (s *spooling) health(h *Health) {
	stats, events := s.log.Stats(), s.count()
	s.mu.Lock()
	oldest, adopted, damages := s.oldest, slices.Collect(maps.Values(s.slots.adopted)), slices.Clone(s.damages)
	s.mu.Unlock()
	h.Spool = &SpoolHealth{Events: events, Bytes: stats.Bytes, CapacityBytes: stats.Max}
	if !oldest.IsZero() {
		h.Spool.Oldest = &oldest
	}
	if h.State == StateSpooling {
		h.problem("redis-away", SeverityError, fmt.Sprintf("redis is away: events are kept in the spool, %d so far", events), hintAway)
	}
	if err := s.trouble(); err != nil {
		code, hint := "spool-error", "is the disk full, or the folder gone?"
		if errors.Is(err, ErrSpoolFull) {
			code, hint = "spool-full", "bring Redis back, or give the spool more room"
		}
		h.problem(code, SeverityError, err.Error(), hint)
		if h.State == StateSpooling { // else publishing works, as long as Redis does
			h.Status = StatusUnhealthy
		}
	}
	s.healthOfDrain(h)
	for _, of := range adopted {
		if of != nil {
			of.healthOfDrain(h)
		} else {
			h.Spool.Opening++
		}
	}
	s.healthOfSlots(h)
	for _, d := range damages {
		h.problem("spool-damaged", SeverityError, d.String(), "the disk may be failing; what can't be read is kept in a file of that name with .damaged")
	}
}

// healthOfDrain says what can't be drained, though Redis is there.
func (s *spooling) healthOfDrain(h *Health) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.stuck) > 0 {
		stream, err := s.stuck.first()
		hint := deniedHint(err)
		if !strings.HasPrefix(stream, "/") {
			hint = strings.TrimPrefix(hint+"; or stop the process and give the events of that stream up: millrace spool discard --stream "+stream, "; ")
		}
		h.problem("spool-stuck", SeverityError, "spool can't be drained: "+s.stuck.text(), hint)
	}
}
