package group

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// holdings are all entries that one consumer holds. They decide which of them gets the next place, of
// which there are size, and how many more entries may be read. Redis is not known here: every method
// is a transition that takes no time.
//
// An entry that waits for anything but a place (the end of a pause, its subject, a beat of its stream)
// takes no room, within bounds, and holds nothing else up.
type holdings struct {
	size       int
	perSubject bool
	ready      chan struct{} // says that deliverLoop has something to do
	newHolding func() *Holding

	mu       sync.Mutex // guards what follows, and the gates of the memberships
	held     map[redisstream.Ref]*Holding
	count    [holdingStates]int
	taken    [][]*Holding            // batches that were taken over or fetched: nobody has looked at them
	read     [][]*Holding            // likewise, read
	urgent   queue                   // of taken ones: they wait for a place only, ahead of those that were read
	turn     queue                   // of those that were read
	cleared  []*Holding              // placed suspects whose count was raised
	subjects map[subjectKey]*subject // with Policy.PerSubject
	danger   *Holding                // the one that may run of those that processes have died of
	behind   queue                   // the others of them
	lost     map[*Holding]struct{}   // their handlers run on, and other consumers have them
	own      pausing                 // this consumer has stopped itself; see sick.go
	keeping  bool                    // what is handed back waits until letBack, in kept
	kept     []settlement

	listing          int                          // listings that are under way
	settledMeanwhile map[redisstream.Ref]struct{} // forgotten since the first of them began

	results int           // deliveries that were settled, since pacedAt
	pacedAt time.Time     // when ahead was determined
	ahead   int           // entries that may be held beyond size: see pace
	changed chan struct{} // there while somebody waits; closed when anything has changed
}

const (
	// aheadFor is what is read ahead: as much as is handled in this time. Fast handlers get large
	// reads, which cost the server and us less per event; slow ones leave to their peers what they
	// could not begin soon.
	aheadFor = 5 * time.Millisecond
	// aheadMost bounds it, as a multiple of the size.
	aheadMost = 3
	// paceEvery is the shortest time over which the speed is measured.
	paceEvery = 2 * time.Millisecond
	// settledPerSize bounds what is held, all that takes no room included, as a multiple of the size.
	// What is not handled here has a bound of its own, per stream: see othersLeast.
	settledPerSize = 6
)

func (w *holdings) init(size int, perSubject bool, newHolding func() *Holding) {
	w.size, w.perSubject, w.newHolding = size, perSubject, newHolding
	w.ready = make(chan struct{}, 1)
	w.held = map[redisstream.Ref]*Holding{}
	w.subjects = map[subjectKey]*subject{}
	w.lost = map[*Holding]struct{}{}
}

// move changes the state of a holding. It is the only place that does. The lock is held.
func (w *holdings) move(h *Holding, to holdingState) {
	if h.state == heldLost {
		delete(w.lost, h)
	}
	if to == heldLost {
		w.lost[h] = struct{}{}
	}
	w.count[h.state]--
	w.count[to]++
	h.state = to
	switch to {
	case heldPlaced, heldHanded, heldRunning, heldLent, heldEnded:
		return // it stands for what it stood for before
	}
	if h.probe.Load() && to != heldTurn {
		h.probe.Store(false)
		h.of.pause.probeLost(time.Now())
	}
	if h.trial.Load() && to != heldTurn {
		h.trial.Store(false)
		w.own.probeLost(time.Now())
	}
	if w.danger == h {
		w.danger = nil
		if next := w.behind.pop(heldDangerous); next != nil {
			w.release([]*Holding{next})
		}
	}
}

// placed is how many places are taken. The lock is held.
func (w *holdings) placed() int {
	return w.count[heldPlaced] + w.count[heldHanded] + w.count[heldRunning] + w.count[heldLost]
}

// signal wakes whoever waits for a change, and deliverLoop if there is something to do. The lock is
// held.
func (w *holdings) signal() {
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
	work := len(w.taken)+len(w.read)+len(w.cleared) > 0
	if work || (w.placed() < w.size || w.own.isPaused()) && w.urgent.len()+w.turn.len() > 0 {
		select {
		case w.ready <- struct{}{}:
		default: // deliverLoop has been told already
		}
	}
}

// hold notes entries that were read and returns those that were not held before.
func (w *holdings) hold(c *Consumer, read []redisstream.Delivered) []*Holding {
	if len(read) == 0 {
		return nil
	}
	now := instantOf(time.Now())
	fresh := make([]*Holding, 0, len(read))
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range read {
		d := &read[i]
		_, known := w.held[d.Ref]
		_, settled := w.settledMeanwhile[d.Ref]
		if known || settled {
			continue
		}
		h := w.newHolding()
		h.consumer, h.since, h.entry, h.gone, h.delivered = c, now, &d.Entry, d.Gone, int32(d.Count)
		h.ref, h.Claimed = d.Ref, d.Claimed
		w.held[d.Ref] = h
		w.count[heldRead]++
		fresh = append(fresh, h)
	}
	return fresh
}

// holdListed holds what the log says is pending with this consumer. The answer is older than what was
// settled while it was on its way: that must not be taken for something unknown, and run again.
func (w *holdings) holdListed(c *Consumer, list func() ([]redisstream.Delivered, error)) (listed int, fresh []*Holding, err error) {
	w.mu.Lock()
	if w.listing++; w.listing == 1 {
		w.settledMeanwhile = map[redisstream.Ref]struct{}{}
	}
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.listing--; w.listing == 0 {
			w.settledMeanwhile = nil
		}
	}()
	pending, err := list()
	return len(pending), w.hold(c, pending), err
}

// arrive gives holdings to deliverLoop; those that were taken over or fetched go ahead of what was
// read.
func (w *holdings) arrive(hs []*Holding, taken bool) {
	if len(hs) == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if taken {
		for _, h := range hs {
			h.taken = true
		}
		w.taken = append(w.taken, hs)
	} else {
		w.read = append(w.read, hs)
	}
	w.signal()
}

// nextArrival returns a batch that nobody has looked at; nil: there is none.
func (w *holdings) nextArrival() (hs []*Holding) {
	w.mu.Lock()
	defer w.mu.Unlock()
	from := &w.taken
	if len(*from) == 0 {
		from = &w.read
	}
	if len(*from) > 0 {
		hs, *from = (*from)[0], (*from)[1:]
		w.signal()
	}
	return hs
}

// putOff is a delivery that goes back to the log until its subject may go on.
type putOff struct {
	h     *Holding
	delay time.Duration
}

// enqueue lets deliveries wait for a place, or for others of their subject. It returns those that are
// to wait in the log. One that was lost meanwhile is passed over.
func (w *holdings) enqueue(hs []*Holding, now time.Time) (off []putOff) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, h := range hs {
		if h.state != heldRead {
			continue
		}
		if w.perSubject && h.Event.Subject != "" {
			if delay, waits := w.admit(h, now); waits {
				off = append(off, putOff{h, delay})
				continue
			} else if h.state == heldSubject {
				continue
			}
		}
		w.push(h)
	}
	w.signal()
	return off
}

// push lets a holding wait for a place, behind the others. The lock is held.
func (w *holdings) push(h *Holding) {
	w.move(h, heldTurn)
	if h.taken {
		w.urgent.push(h)
	} else {
		w.turn.push(h)
	}
}

// release lets holdings wait for a place whose other reason to wait has ended, ahead of those that
// were read after them. The lock is held.
func (w *holdings) release(hs []*Holding) {
	if len(hs) == 0 {
		return
	}
	for _, h := range hs {
		w.move(h, heldTurn)
	}
	w.turn.pushFront(hs)
	w.signal()
}

// next places deliveries, as many as there are places, and returns them; and the suspects among them
// whose count is to be raised first; and those that are to be handed back, since this consumer has
// stopped itself. What may not begin now waits where it holds nothing up.
func (w *holdings) next(now time.Time) (out, raise, back []*Holding) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, h := range w.cleared {
		switch {
		case h.state != heldPlaced: // it was lost
		case w.own.isPaused() && !h.trial.Load():
			w.giveBack(h)
			back = append(back, h)
		default:
			w.move(h, heldHanded)
			out = append(out, h)
		}
	}
	w.cleared = nil
	if n := min(w.size-w.placed(), w.urgent.len()+w.turn.len()); n > 0 {
		out = slices.Grow(out, n)
	}
	for w.placed() < w.size || w.own.isPaused() {
		h := w.urgent.pop(heldTurn)
		if h == nil {
			h = w.turn.pop(heldTurn)
		}
		if h == nil {
			break
		}
		if !w.mayBegin(h, now) {
			if h.state == heldEnded {
				back = append(back, h)
			}
			continue
		}
		if h.suspect && !h.raised {
			w.move(h, heldPlaced)
			h.raising = true
			raise = append(raise, h)
		} else {
			w.move(h, heldHanded)
			out = append(out, h)
		}
	}
	return out, raise, back
}

// mayBegin reports whether a delivery may begin now. One that may not waits for what keeps it from
// that. The lock is held.
func (w *holdings) mayBegin(h *Holding, now time.Time) bool {
	of := h.of
	switch {
	case of.resting.Load() || !of.isFresh(now):
		w.move(h, heldAside)
		of.aside = append(of.aside, h)
		return false
	case w.own.isPaused() && !h.trial.Load() && !w.takeTrial(h, now):
		w.giveBack(h)
		return false
	case h.isDangerous() && w.danger != nil:
		w.move(h, heldDangerous)
		w.behind.push(h)
		return false
	case of.pause.isPaused() && !h.probe.Load():
		if !of.pause.takeProbe(now) {
			w.move(h, heldPaused)
			of.parked = append(of.parked, h)
			return false
		}
		h.probe.Store(true)
	}
	if h.isDangerous() {
		w.danger = h
	}
	return true
}

// clear notes that the counts of placed suspects were raised: they may be handed out.
func (w *holdings) clear(hs []*Holding) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, h := range hs {
		h.raised = true
	}
	w.cleared = append(w.cleared, hs...)
	w.signal()
}

// setAside takes their places away from deliveries that have not begun, until the next beat of their
// stream.
func (w *holdings) setAside(hs []*Holding) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, h := range hs {
		if h.state == heldPlaced {
			w.move(h, heldAside)
			h.of.aside = append(h.of.aside, h)
		}
	}
	w.signal()
}

// begin reports whether the handler of a delivery may begin. Where it may not, since its stream
// was paused meanwhile or this consumer may have been taken for dead, another holding of the same
// entry waits in its stead, and this one is lost.
func (w *holdings) begin(h *Holding, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if h.state != heldHanded {
		return false
	}
	paused := h.of.pause.isPaused() || w.own.isPaused()
	if h.of.isFresh(now) && (!paused || h.probe.Load() || h.trial.Load()) {
		w.move(h, heldRunning)
		h.began, h.calm = instantOf(now), w.ahead <= calmAhead
		return true
	}
	again := h.anew(w.newHolding())
	w.count[heldRead]++
	w.held[h.ref] = again
	if s := w.subjects[h.subject()]; s != nil && s.current == h {
		s.current = again
	}
	w.move(h, heldLost)
	w.release([]*Holding{again})
	return false
}

// freshen lets go on what waited for a beat of its stream.
func (w *holdings) freshen(of *membership) {
	w.mu.Lock()
	defer w.mu.Unlock()
	of.resting.Store(false)
	w.release(still(heldAside, of.aside))
	of.aside = nil
}

// resume lets go on what waited for the end of a pause. The lock is held.
func (w *holdings) resume(of *membership) {
	w.release(still(heldPaused, of.parked))
	of.parked = nil
}

// tryParked lets one delivery of a paused stream be tried, where it is time. The lock is held.
func (w *holdings) tryParked(of *membership, now time.Time) {
	of.parked = still(heldPaused, of.parked)
	if len(of.parked) == 0 || !of.pause.takeProbe(now) {
		return
	}
	h := of.parked[0]
	of.parked = of.parked[1:]
	w.release([]*Holding{h})
	h.probe.Store(true)
}

// stop has this consumer begin nothing more, and returns what is to be handed back; began is false where
// it has stopped already. Those that wait for their subject follow when they have their turn.
func (w *holdings) stop(why Pause, now time.Time) (back []*Holding, began bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.own.tripped(why, now).began {
		return nil, false
	}
	w.own.wrote(true, now) // nobody else is to know
	w.keeping = w.perSubject
	for _, h := range w.held {
		switch h.state {
		case heldPaused, heldAside, heldDangerous, heldTurn:
			back = append(back, h)
		}
	}
	slices.SortFunc(back, func(a, b *Holding) int { return a.ref.ID.Compare(b.ref.ID) })
	for _, h := range back {
		w.giveBack(h)
	}
	w.signal()
	return back, true
}

// giveBack ends a delivery that is handed back before it has begun. It holds its subject until it is in
// the log. The lock is held.
func (w *holdings) giveBack(h *Holding) { w.move(h, heldEnded) }

// takeTrial lets a delivery be tried, if this consumer has stopped itself and it is time. It may begin in
// a stream that the breaker has paused; then its result decides there as well. The lock is held.
func (w *holdings) takeTrial(h *Holding, now time.Time) bool {
	pause := &h.of.pause
	byOther := pause.isPaused() && pause.pause.By != PausedByBreaker
	if byOther || w.placed() >= w.size || !w.own.takeProbe(now) {
		return false
	}
	h.trial.Store(true)
	h.probe.Store(pause.isPaused())
	return true
}

// tried takes the result of a trial, and reports whether this consumer goes on.
func (w *holdings) tried(h *Holding, succeeded bool, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !h.trial.Swap(false) || !w.own.probed(succeeded, now).ended {
		return false
	}
	w.own.wrote(true, now)
	w.signal() // there is room again
	return true
}

// replaceStop ends the stop of this consumer where the group is paused for the same reason, and reports
// whether it does: it was not alone. The lock is held.
func (w *holdings) replaceStop(by *Pause, now time.Time) bool {
	own := &w.own
	if !own.isPaused() || by.By != PausedByBreaker || by.Fingerprint == "" || by.Fingerprint != own.pause.Fingerprint {
		return false
	}
	own.end()
	own.written = now
	w.signal()
	return true
}

// still returns those that are in the state. The lock of the holdings is held.
func still(state holdingState, hs []*Holding) []*Holding {
	return slices.DeleteFunc(hs, func(h *Holding) bool { return h.state != state })
}

// finish ends a delivery that was handed out: its result is on the way into the log (heldEnded), needs
// no way there (heldGone), or there is none (heldRead). A failed one that is tried again holds its
// subject for hold, or untilLogged. It reports whether another consumer has the entry by now.
func (w *holdings) finish(h *Holding, to holdingState, hold time.Duration) (lost bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	lost = h.state == heldLost || h.state == heldGone
	if lost {
		to, hold = heldGone, 0 // whoever has it tries it again
	}
	w.end(h, to)
	w.results++
	w.leaveSubject(h, hold)
	w.signal()
	return lost
}

// report notes that the results of entries that were not handed out are on their way into the log, and
// returns those of which that is so: the others are not held any more.
func (w *holdings) report(hs ...*Holding) []*Holding {
	w.mu.Lock()
	defer w.mu.Unlock()
	hs = slices.DeleteFunc(hs, func(h *Holding) bool { return h.state == heldGone })
	for _, h := range hs {
		w.move(h, heldEnded)
		w.leaveSubject(h, 0)
	}
	w.signal()
	return hs
}

// settled forgets holdings whose results are in the log.
func (w *holdings) settled(hs ...*Holding) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, h := range hs {
		w.end(h, heldGone)
		w.leaveSubject(h, 0)
		if h.awayFor > 0 {
			w.wentAway(h)
		}
	}
	w.signal()
}

// lose forgets an entry that another consumer has, and returns the holding whose handler runs on here,
// if one does. It may have been our own acknowledgement, of which we have not heard yet.
func (w *holdings) lose(ref redisstream.Ref) (running *Holding) {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.held[ref]
	if h == nil {
		return nil
	}
	switch h.state {
	case heldHanded, heldRunning:
		w.end(h, heldLost)
		running = h
	case heldLent: // its place is another one's
		w.end(h, heldGone)
		running = h
	default:
		w.end(h, heldGone)
		w.leaveSubject(h, 0)
	}
	w.signal()
	return running
}

// end moves a holding to a state, and where its entry is not held any more by that, it keeps an answer
// that is on its way from bringing the entry back. The lock is held.
func (w *holdings) end(h *Holding, to holdingState) {
	w.move(h, to)
	if to != heldGone && to != heldLost || w.held[h.ref] != h {
		return // it is held on, or there is another holding of the entry
	}
	delete(w.held, h.ref)
	if w.listing > 0 {
		w.settledMeanwhile[h.ref] = struct{}{}
	}
}

// lend gives the place of a running delivery to another one.
func (w *holdings) lend(h *Holding) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if h.state == heldHanded || h.state == heldRunning {
		w.move(h, heldLent)
		w.signal()
	}
}

// heldLong returns what is held since before the given time, by stream.
func (w *holdings) heldLong(before time.Time) map[string][]redisstream.Ref {
	w.mu.Lock()
	defer w.mu.Unlock()
	long := map[string][]redisstream.Ref{}
	for ref, h := range w.held {
		if h.since < instantOf(before) && !ref.Spool {
			long[ref.Stream] = append(long[ref.Stream], ref)
		}
	}
	return long
}

// pace determines how much is read ahead of the handlers.
func (w *holdings) pace(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	since := now.Sub(w.pacedAt)
	if since < paceEvery {
		return
	}
	w.ahead = min(aheadMost*w.size, int(int64(w.results)*int64(aheadFor)/int64(since)))
	w.pacedAt, w.results = now, 0
}

// room is how many more entries may be read. Entries that are settled here do not count, nor those that
// wait for something other than a place, up to settledPerSize × size: nobody knows how long they wait.
// The lock is held.
func (w *holdings) room() int {
	waiting := w.count[heldPaused] + w.count[heldSubject] + w.count[heldAside] + w.count[heldLent] +
		w.count[heldDangerous]
	held := w.heldHere()
	counted := held - w.count[heldEnded] - waiting
	if w.own.isPaused() {
		return min(1, w.size-counted) // to be tried
	}
	return min(w.size+w.ahead-counted, settledPerSize*w.size-held)
}

// roomToTake is how many more entries may be taken over or fetched. Those that wait already count, and
// nothing that was read does: a dead peer's come first, whatever the backlog. The lock is held.
func (w *holdings) roomToTake() int {
	if w.own.isPaused() {
		return 0
	}
	waiting := w.urgent.len()
	for _, hs := range w.taken {
		waiting += len(hs)
	}
	return min(w.size-waiting, (settledPerSize+1)*w.size-w.heldHere())
}

// heldHere is how many entries are held but for those that are not handled here. The lock is held.
func (w *holdings) heldHere() int { return len(w.held) - w.count[heldOthers] }

// free waits until there is room for entries to be read, and returns how much; 0 when ctx has ended.
func (w *holdings) free(ctx context.Context) int { return w.awaitRoom(ctx, w.room) }

// freeToTake waits until there is room for entries to be taken over, and returns how much; 0 when ctx
// has ended.
func (w *holdings) freeToTake(ctx context.Context) int { return w.awaitRoom(ctx, w.roomToTake) }

func (w *holdings) awaitRoom(ctx context.Context, room func() int) (n int) {
	if !w.await(ctx, func() bool { n = room(); return n > 0 }) || ctx.Err() != nil {
		return 0
	}
	return n
}

// freeMuch is free, but waits until deliverLoop has taken what was read before, and for up to a
// millisecond longer for a quarter of the size: a read for one entry costs as much as one for many.
func (w *holdings) freeMuch(ctx context.Context) int {
	w.await(ctx, func() bool { return len(w.read) == 0 })
	w.pace(time.Now())
	room := w.free(ctx)
	if room == 0 || room >= w.size/4 {
		return room
	}
	moment, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	w.await(moment, func() bool { room = w.room(); return room >= w.size/4 })
	return max(room, 1)
}

// isLost reports whether another consumer has the entry by now.
func (w *holdings) isLost(h *Holding) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return h.state == heldLost || h.state == heldGone
}

// inFlight is how many deliveries are handed out and not settled.
func (w *holdings) inFlight() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.placed()
}

// drain waits until no delivery is handed out, or ctx has ended, and returns how many still are. Those
// that have their place, and whose counts were raised, are not: nobody hands them out any more.
func (w *holdings) drain(ctx context.Context) (left int) {
	handedOut := func() int { return w.placed() - w.count[heldPlaced] }
	w.await(ctx, func() bool { return handedOut() == 0 })
	w.mu.Lock()
	defer w.mu.Unlock()
	return handedOut()
}

// raisedHere returns, by stream, the suspects that are held and whose counts may have been raised.
func (w *holdings) raisedHere() map[string][]redisstream.Suspect {
	w.mu.Lock()
	defer w.mu.Unlock()
	raised := map[string][]redisstream.Suspect{}
	for ref, h := range w.held {
		if h.raising {
			raised[ref.Stream] = append(raised[ref.Stream], redisstream.Suspect{Ref: ref, Count: int(h.delivered)})
		}
	}
	return raised
}

// await waits until the condition holds; false when ctx ended first.
func (w *holdings) await(ctx context.Context, condition func() bool) bool {
	for {
		w.mu.Lock()
		if condition() {
			w.mu.Unlock()
			return true
		}
		if w.changed == nil {
			w.changed = make(chan struct{})
		}
		changed := w.changed
		w.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// queue is a first-in, first-out list of holdings. One that has left its state meanwhile is passed
// over.
type queue struct {
	items []*Holding
	first int
}

func (q *queue) len() int { return len(q.items) - q.first }

func (q *queue) push(h *Holding) { q.items = append(q.items, h) }

func (q *queue) pushFront(hs []*Holding) {
	if q.first < len(hs) { // no room is left there by those that were popped
		room := len(hs) + q.len()
		q.items = append(make([]*Holding, room, 2*room), q.items[q.first:]...)
		q.first = room
	}
	q.first -= len(hs)
	copy(q.items[q.first:], hs)
}

// pop takes the first holding that is in the state; nil: there is none.
func (q *queue) pop(state holdingState) *Holding {
	for q.first < len(q.items) {
		h := q.items[q.first]
		q.items[q.first] = nil
		q.first++
		if q.first == len(q.items) {
			q.items, q.first = q.items[:0], 0
		}
		if h.state == state {
			return h
		}
	}
	return nil
}
