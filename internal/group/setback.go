package group

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// setbacks are the steps of a consumer at one stream that fail again and again, besides its beats. Each
// is tried again by whoever tries it, and says nothing else: so it is noted here, is logged once, and is
// a problem of health when it lasts.
type setbacks struct {
	mu sync.Mutex
	of map[string]setback // by step
}

// setback is a step that has failed, and has not succeeded since.
type setback struct {
	step        string
	err         error
	first, last time.Time
}

// setbackOver is how long after its last failure a step counts as given up: there may be nothing left to
// do. What is tried again is so within passOnMost.
const setbackOver = time.Minute

// The steps, as they follow "can't".
const (
	stepJoin    = "join the group"
	stepTake    = "take over from consumers that are gone"
	stepFetch   = "fetch what waits for a handler that is here"
	stepClaim   = "claim what other software has left"
	stepRenew   = "find out whether it still has what it holds"
	stepRaise   = "mark what may have killed a process"
	stepSkip    = "acknowledge what the group does not take"
	stepWait    = "let events wait for a consumer of their type"
	stepPromote = "move what is due for its next attempt"
	stepFollow  = "count failures, so the group may not be paused in time"
)

// note takes what became of a step, and reports whether that is news: it fails and did not, or for
// another kind of reason; or it succeeds again.
func (s *setbacks) note(step string, err error, now time.Time) (news bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, failed := s.of[step]
	if err == nil {
		delete(s.of, step)
		return failed
	}
	if now.Sub(before.last) > setbackOver {
		failed, before.first = false, now
	}
	if s.of == nil {
		s.of = map[string]setback{}
	}
	s.of[step] = setback{step, err, before.first, now}
	return !failed || redisstream.Classify(before.err) != redisstream.Classify(err)
}

// lasting returns the steps that have failed for longer than the given time, and still do.
func (s *setbacks) lasting(longer time.Duration, now time.Time) (last []setback) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.of {
		if now.Sub(b.last) <= setbackOver && b.last.Sub(b.first) > longer {
			last = append(last, b)
		}
	}
	slices.SortFunc(last, func(a, b setback) int { return cmp.Compare(a.step, b.step) })
	return last
}

// noteStep notes what became of a step at a stream. What an outage does others say, for the whole process.
func (c *Consumer) noteStep(m *membership, step string, err error) {
	if err != nil && c.reading.Err() != nil {
		return // it ends
	}
	if !m.setbacks.note(step, err, time.Now()) {
		return
	}
	switch class := redisstream.Classify(err); {
	case err == nil:
		c.logger.Info("consumer can do again what it could not", "stream", m.stream, "what", step)
	case class != redisstream.Away && class != redisstream.Lost && class != redisstream.Silent:
		c.logger.Warn("consumer can't "+step+"; it tries again", "stream", m.stream, "err", c.setbackError(m, step, err))
	}
}

func (c *Consumer) setbackError(m *membership, step string, err error) error {
	return c.shape(step+" in group "+c.cfg.Group+" of", m.stream, err)
}
