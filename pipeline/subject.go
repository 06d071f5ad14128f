package pipeline

import "time"

// subject is the order of the deliveries of one subject of a stream, with Policy.PerSubject: one of
// them has its turn, the others wait behind it. It is there while one has its turn, waits, or is to be
// tried again.
type subject struct {
	current *holding   // has its turn; nil: the one that failed is to be tried again
	waiting []*holding // behind it, in order
	holder  string     // ID of the event that failed and is to be tried again before the others
	until   time.Time  // then it is waited for no longer: another instance has got it
	// away holds the IDs of events that wait in the log, since too many wait here. They are due one
	// after the other, and what comes meanwhile goes behind them.
	away  map[string]struct{}
	delay time.Duration // of the last one of them
	last  time.Time     // when it is due
}

const (
	// holdMargin is how much longer than until it is due a failed delivery holds its subject: a beat
	// moves it to the lane, and a read brings it.
	holdMargin = 2 * beatEvery
	// apart is how much longer each delivery waits in the log than the one before it. The log adds that
	// to the time at which it writes, and writes in order: so they are due in order.
	apart = time.Millisecond
)

// subject is the key under which holdings know the subject.
func (h *holding) subject() subjectKey { return subjectKey{h.Stream, h.Event.Subject} }

// admit gives a delivery its turn, or lets it wait behind others of its subject: here (then its state
// is heldSubject), or in the log for the time returned. Those of a subject that waits for its next
// attempt go there beyond a bound, since nobody knows for how long. The lock is held.
func (w *holdings) admit(h *holding, now time.Time) (delay time.Duration, waitsInLog bool) {
	s := w.subjects[h.subject()]
	if s == nil {
		w.subjects[h.subject()] = &subject{current: h}
		return 0, false
	}
	_, returned := s.away[h.Event.ID]
	delete(s.away, h.Event.ID)
	switch {
	case s.holder == h.Event.ID:
		s.holder, s.current = "", h
		return 0, false
	case len(s.away) > 0 && !returned, s.holder != "" && w.count[heldSubject] >= w.size:
		return s.sendAway(h.Event.ID, now), true
	case s.current == nil && s.holder == "" && len(s.waiting) == 0:
		s.current = h
		return 0, false
	}
	w.move(h, heldSubject)
	s.waiting = append(s.waiting, h)
	return 0, false
}

// sendAway notes that an event waits in the log, and returns for how long.
func (s *subject) sendAway(id string, now time.Time) time.Duration {
	if len(s.away) == 0 {
		s.away, s.delay = map[string]struct{}{}, 0
	}
	s.away[id] = struct{}{}
	s.delay = max(s.delay+apart, s.until.Sub(now))
	s.last = now.Add(s.delay)
	return s.delay
}

// leaveSubject ends the turn of a delivery. One that is tried again holds the subject for hold, where
// that is positive; else the next one has its turn. The lock is held.
func (w *holdings) leaveSubject(h *holding, hold time.Duration) {
	if !w.perSubject || h.Event.Subject == "" {
		return
	}
	s := w.subjects[h.subject()]
	if s == nil || s.current != h {
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
			w.release([]*holding{h})
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
		if len(s.away) > 0 && now.After(s.last.Add(holdMargin)) {
			s.away = nil
		}
		if s.current == nil && (s.holder == "" || now.After(s.until)) {
			w.advance(key, s)
		}
	}
}
