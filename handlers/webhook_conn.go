package handlers

import (
	"context"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"
)

// usedConnection watches whether a request went over a connection that had been used before, and
// whether an answer began.
//
// A server closes a connection that is idle, and may do so just when a request is on its way.
// net/http sends such a request again by itself, but a POST only if nothing of it was written, or
// if it says by an Idempotency-Key that it may be repeated; not even then where a part of a larger
// body was written. Deliveries may be repeated anyway. Over a new connection there is no such race:
// who closes that one without an answer has failed.
type usedConnection struct{ reused, answered atomic.Bool }

// watch returns a context for the request.
func (c *usedConnection) watch(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn:              func(info httptrace.GotConnInfo) { c.reused.Store(info.Reused) },
		GotFirstResponseByte: func() { c.answered.Store(true) },
	})
}

// closedUnanswered reports whether the error of the request is that of a connection which the
// server closed before it answered.
func (c *usedConnection) closedUnanswered(err error) bool {
	sent, ok := err.(*url.Error) // as http.Client returns it
	return ok && !sent.Timeout() && c.reused.Load() && !c.answered.Load()
}
