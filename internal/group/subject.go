package group

import "time"

// subjectKey names a subject of a stream.
type subjectKey struct{ stream, subject string }

// subject is the order of the deliveries of one subject of a stream, with Policy.PerSubject: one of
// them has its turn, the others wait behind it. It is there while one has its turn, waits, or is to be
// tried again.
type subject struct {
	current *Holding   // has its turn; nil: the one that failed is to be tried again
	waiting []*Holding // behind it, in order
	holder  string     // ID of the event that failed and is to be tried again before the others
	until   time.Time  // then it is waited for no longer: another instance has got it
	// away says of events that wait in the log, since too many wait here, when each is due. They keep
	// their order: one that comes back before the first of them goes away again, and what comes for the
	// first time goes behind them.
	away  map[string]time.Time
	order []string      // their IDs, and some of events that are not away any more
	delay time.Duration // of the last one that was sent away
	going int           // those that were sent away, and of which it is not known yet that they are in the log
	last  time.Time     // when the last one of the others is due, at the latest
}

const (
	// holdMargin is how much longer than until it is due a failed delivery holds its subject: a beat
	// moves it to the lane, and a read brings it.
	holdMargin = 2 * beatEvery
	// untilLogged instead of a time has a delivery hold its subject until its result is in the log. What is
	// handed back comes again by the lane: those behind it must not get there first.
	untilLogged time.Duration = -1
	// apart is how much later than the one before it a delivery that waits in the log is due.
	apart = time.Millisecond
)

// subject is the key under which holdings know the subject.
func (h *Holding) subject() subjectKey { return subjectKey{h.ref.Stream, h.Event.Subject} }

// admit gives a delivery its turn, or lets it wait behind others of its subject: here (then its state
// is heldSubject), or in the log for the time returned. Those of a subject that waits for its next
// attempt go there beyond a bound, since nobody knows for how long. The lock is held.
func (w *holdings) admit(h *Holding, now time.Time) (delay time.Duration, waitsInLog bool) {
	s := w.subjects[h.subject()]
	if s == nil {
		w.subjects[h.subject()] = &subject{current: h}
		return 0, false
	}
	_, returned := s.away[h.Event.ID]
	if returned {
		s.away[h.Event.ID] = now // however late it comes
	}
	first := s.firstAway(now) == h.Event.ID
	switch full := s.holder != "" && w.count[heldSubject] >= w.size; {
	case s.holder == h.Event.ID:
		s.holder, s.current = "", h
		return 0, false
	case full, returned && !first, !returned && len(s.away) > 0:
		h.awayFor = s.sendAway(h.Event.ID, now)
		return h.awayFor, true
	}
	delete(s.away, h.Event.ID)
	if s.current == nil && s.holder == "" && len(s.waiting) == 0 {
		s.current = h
		return 0, false
	}
	w.move(h, heldSubject)
	s.waiting = append(s.waiting, h)
	return 0, false
}

// firstAway returns the ID of the first event that waits in the log and is still expected; "" for none.
func (s *subject) firstAway(now time.Time) string {
	for len(s.order) > 0 {
		id := s.order[0]
		due, away := s.away[id]
		if away && !now.After(due.Add(holdMargin)) {
			return id
		}
		delete(s.away, id) // another instance has got it
		s.order = s.order[1:]
	}
	return ""
}

// sendAway notes that an event waits in the log, and returns for how long: behind all that were sent
// away before it. As long as some of them may not be in the log yet, each waits longer than the one
// before it; the log writes them in their order.
func (s *subject) sendAway(id string, now time.Time) time.Duration {
	if _, again := s.away[id]; !again {
		s.order = append(s.order, id)
	}
	least := s.last.Sub(now)
	if s.going > 0 {
		least = s.delay
	}
	s.delay = max(least+apart, s.until.Sub(now), apart)
	s.going++
	if s.away == nil {
		s.away = map[string]time.Time{}
	}
	s.away[id] = now.Add(s.delay)
	return s.delay
}

// wentAway notes that a delivery which was sent away is in the log. The lock is held.
func (w *holdings) wentAway(h *Holding) {
	if s := w.subjects[h.subject()]; s != nil && s.going > 0 {
		s.going--
		if due := time.Now().Add(h.awayFor); due.After(s.last) {
			s.last = due
		}
	}
	h.awayFor = 0
}

// leaveSubject ends the turn of a delivery. One that is tried again holds the subject for hold, where
// that is positive; else the next one has its turn, if hold is not untilLogged. The lock is held.
func (w *holdings) leaveSubject(h *Holding, hold time.Duration) {
	if !w.perSubject || h.Event.Subject == "" {
		return
	}
	s := w.subjects[h.subject()]
	if s == nil || s.current != h || hold == untilLogged {
		return
	}
	s.current = nil
	if hold > 0 {
		s.holder, s.until = h.Event.ID, time.Now().Add(hold+holdMargin)
		return
	}
	w.advance(h.subject(), s)
}

// advance gives the next delivery of a subject its turn, or forgets the subject. The lock is held.
func (w *holdings) advance(key subjectKey, s *subject) {
	s.holder = ""
	for len(s.waiting) > 0 {
		h := s.waiting[0]
		s.waiting = s.waiting[1:]
		if h.state == heldSubject { // else it was lost
			s.current = h
			w.release([]*Holding{h})
			return
		}
	}
	if len(s.away) == 0 {
		delete(w.subjects, key)
	}
}

// releaseSubjects goes on with those whose failed delivery, or whose deliveries that wait in the log,
// have not come back: another instance has got them.
func (w *holdings) releaseSubjects(now time.Time) {
	if !w.perSubject {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for key, s := range w.subjects {
		s.firstAway(now)
		if s.current == nil && (s.holder == "" || now.After(s.until)) {
			w.advance(key, s)
		}
	}
}
