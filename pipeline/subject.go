package pipeline

import "time"

// subject is the queue of the deliveries of one subject, with Policy.PerSubject. It is there while one of them runs, or is to be tried again.
type subject struct {
	waiting []*handed
	holder  string    // ID of the event that failed and is to be tried again before the others; empty while one runs
	until   time.Time // then it is waited for no longer: another instance has got it
}

// holdMargin is how much longer than until it is due a failed delivery holds its subject: a beat moves it to the lane, and a read brings it.
const holdMargin = 2 * beatEvery

// first reports whether the delivery may run now: no other one of its subject runs, or is to be tried again before it. Else it waits.
func (c *consumer) first(h *handed) bool {
	if h.Event.Subject == "" {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.subjects[h.Event.Subject]
	switch {
	case s == nil:
		c.subjects[h.Event.Subject] = &subject{}
		return true
	case s.holder == h.Event.ID:
		s.holder = ""
		return true
	}
	s.waiting = append(s.waiting, h)
	c.window.park(1)
	return false
}

// next hands out the delivery that waited for the end of h.
func (c *consumer) next(h *handed) {
	if !c.cfg.Policy.PerSubject || h.Event.Subject == "" {
		return
	}
	c.mu.Lock()
	ready := c.advance(h.Event.Subject)
	c.mu.Unlock()
	if ready != nil {
		c.makeReady(ready)
	}
}

// advance takes the next delivery of a subject out of its queue, or forgets the subject. The lock is held.
func (c *consumer) advance(name string) *handed {
	s := c.subjects[name]
	if s == nil {
		return nil
	}
	s.holder = ""
	if len(s.waiting) == 0 {
		delete(c.subjects, name)
		return nil
	}
	h := s.waiting[0]
	s.waiting = s.waiting[1:]
	c.window.park(-1)
	return h
}

// holdSubject keeps the others of the subject waiting until the failed delivery has had its next attempt.
func (c *consumer) holdSubject(h *handed, delay time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.subjects[h.Event.Subject]; s != nil {
		s.holder, s.until = h.Event.ID, time.Now().Add(delay+holdMargin)
	}
}

// releaseSubjects goes on with those whose failed delivery has not come back: another instance has got it.
func (c *consumer) releaseSubjects() {
	if !c.cfg.Policy.PerSubject {
		return
	}
	now := time.Now()
	var ready []*handed
	c.mu.Lock()
	for name, s := range c.subjects {
		if s.holder != "" && now.After(s.until) {
			if h := c.advance(name); h != nil {
				ready = append(ready, h)
			}
		}
	}
	c.mu.Unlock()
	if len(ready) > 0 {
		c.makeReady(ready...)
	}
}
