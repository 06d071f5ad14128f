package pipeline

import (
	"fmt"
	"sync"
)

// suspects are deliveries that were taken over from a consumer that died, and may be what it died of.
type suspects struct {
	mu     sync.Mutex // guards queue
	queue  []*handed
	filled chan struct{} // says that the queue is not empty
}

func (s *suspects) init() { s.filled = make(chan struct{}, 1) }

func (s *suspects) put(h *handed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = append(s.queue, h)
	select {
	case s.filled <- struct{}{}:
	default: // suspectLoop has been told already
	}
}

func (s *suspects) take() []*handed {
	s.mu.Lock()
	defer s.mu.Unlock()
	queue := s.queue
	s.queue = nil
	return queue
}

// suspect leaves a delivery to suspectLoop. It returns true.
func (c *consumer) suspect(h *handed) bool {
	if h.Crashes > 0 {
		c.dangerous.put(h)
	} else {
		c.suspects.put(h)
	}
	return true
}

// suspectLoop raises the delivery count of each suspect just before its handler starts, so that a further death tells which deliveries were
// running and which only waited for their turn: only those move towards the crash limit. Those of which that is known already (dangerous)
// run one at a time, so that the next death tells which one it was.
func (c *consumer) suspectLoop(of *suspects) {
	for {
		select {
		case <-c.reading.Done():
			return
		case <-of.filled:
			for _, h := range of.take() {
				if !c.try(h) {
					return
				}
			}
		}
	}
}

// try lets a suspect run, or gives up on it; false when the consumer stops.
func (c *consumer) try(h *handed) bool {
	if limit := c.cfg.Policy.CrashLimit; limit >= 0 && h.Crashes >= limit {
		err := fmt.Errorf("the process died %d times while it handled the event", h.Crashes)
		h.Attempt-- // this one is not made
		c.report(settlement{ref: h.ref, burial: c.burialOf(&h.Delivery, KindCrash, err)})
		h.drop()
		return true
	}
	for backoff := backoffFirst; ; backoff = min(2*backoff, backoffMost) {
		count, err := c.bus.log.Suspect(c.reading, c.self, h.ref)
		if err == nil && count == 0 { // another consumer has it by now
			c.window.takeAway(h.ref)
			h.drop()
			return true
		}
		if err == nil {
			break
		}
		if !sleep(c.reading, backoff) {
			return false
		}
	}
	h.cleared = true
	c.makeReady(h)
	if h.Crashes == 0 {
		return true
	}
	select {
	case <-h.done:
	case <-c.reading.Done():
		return false
	}
	// The next one may be what the process dies of. The result of this one must be in the log by then, or it would be taken for that.
	return c.window.awaitResult(c.reading, h)
}
