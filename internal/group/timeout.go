package group

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

// Limit begins the time of the handler, if it has a limit.
func (h *Holding) Limit() {
	timeout := h.consumer.cfg.Policy.Timeout
	if timeout <= 0 {
		return
	}
	l := &limiter{timeout: timeout}
	h.limiter = l
	l.mu.Lock()
	defer l.mu.Unlock()
	l.timer = time.AfterFunc(timeout, func() { l.fire(h) })
}

func (l *limiter) fire(h *Holding) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	if l.fired++; l.fired == 1 {
		h.Delivery.Cancel(ErrHandlerTimeout)
		l.timer.Reset(l.timeout)
		return
	}
	h.consumer.stuck(h)
}

// unlimit ends the time of the handler, which has returned or was never called. It returns how long that
// was where it was up: whatever it returned then is a failure.
func (h *Holding) unlimit() (timeout time.Duration) {
	l := h.limiter
	if l == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	l.timer.Stop()
	if l.fired > 1 {
		h.consumer.unstuck(h)
	}
	if l.fired == 0 {
		return 0
	}
	return l.timeout
}

// stuckHandler is a handler that does not heed the end of its ctx.
type stuckHandler struct {
	since time.Time
	stack string
}

// stuck notes a handler that has run for twice its time, and gives its place to another delivery, for a
// quarter of all places.
func (c *Consumer) stuck(h *Holding) {
	stack := StackOf(Goroutines(), h.Event.ID)
	c.mu.Lock()
	c.stuckHandlers[h] = stuckHandler{since: time.Now().Add(-2 * c.cfg.Policy.Timeout), stack: stack}
	lend := len(c.stuckHandlers) <= c.cfg.InFlight/4
	c.mu.Unlock()
	c.logger.Error("handler is stuck: it has run for twice its timeout, and does not heed its context", "stream", h.ref.Stream, "type", h.Event.Type,
		"id", h.Event.ID, "timeout", c.cfg.Policy.Timeout, "stack", stack)
	if lend {
		c.holdings.lend(h)
	}
}

func (c *Consumer) unstuck(h *Holding) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.stuckHandlers, h)
}
