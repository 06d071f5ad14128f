package pipeline

import (
	"sync"
	"time"
)

// limiter holds a handler to Policy.Timeout. First its ctx is cancelled. It can't be stopped, so the delivery stays with it until it returns;
// beyond twice the timeout it counts as stuck, and its place is given to another delivery, for a quarter of all places.
type limiter struct {
	timeout time.Duration
	timer   *time.Timer

	mu    sync.Mutex // guards what follows
	fired int
	ended bool
}

// limit begins the time of the handler.
func (h *holding) limit(timeout time.Duration) {
	l := &limiter{timeout: timeout}
	h.limiter = l
	l.mu.Lock()
	defer l.mu.Unlock()
	l.timer = time.AfterFunc(timeout, func() { l.fire(h) })
}

func (l *limiter) fire(h *holding) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	if l.fired++; l.fired == 1 {
		h.ctx.cancel(ErrHandlerTimeout)
		l.timer.Reset(l.timeout)
		return
	}
	h.consumer.stuck(h)
}

// unlimit ends the time of the handler, which has returned or was never called.
func (h *holding) unlimit() *limiter {
	l := h.limiter
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	l.timer.Stop()
	if l.fired > 1 {
		h.consumer.unstuck(h)
	}
	return l
}

// judge returns what the result of the handler counts as: whatever it returned after its time was up is a failure.
func (l *limiter) judge(err error) error {
	if l == nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fired == 0 {
		return err
	}
	return &TimeoutError{Timeout: l.timeout, Err: err}
}

// stuckHandler is a handler that does not heed the end of its ctx.
type stuckHandler struct {
	since time.Time
	stack string
}

// stuck notes a handler that has run for twice its time, and gives its place to another delivery, for a
// quarter of all places.
func (c *consumer) stuck(h *holding) {
	stack := stackOf(goroutines(), h.Event.ID)
	c.mu.Lock()
	c.stuckHandlers[h] = stuckHandler{since: time.Now().Add(-2 * c.cfg.Policy.Timeout), stack: stack}
	lend := len(c.stuckHandlers) <= c.cfg.InFlight/4
	c.mu.Unlock()
	c.logger.Error("handler is stuck: it has run for twice its timeout, and does not heed its context", "stream", h.Stream, "type", h.Event.Type,
		"id", h.Event.ID, "timeout", c.cfg.Policy.Timeout, "stack", stack)
	if lend {
		c.holdings.lend(h)
	}
}

func (c *consumer) unstuck(h *holding) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.stuckHandlers, h)
}
