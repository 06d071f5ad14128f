package pipeline

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

const (
	// refusedFor is for how long it is a problem that the server has refused events of a stream, unless it
	// takes some before.
	refusedFor = 10 * time.Minute
	// refusedSoon is the same where it says that it has no memory, or takes no writes, which passes.
	refusedSoon = time.Minute
	// maxRefused is of how many streams refusals are kept. Publishers choose the names of streams.
	maxRefused = 1000
)

// refusals are the streams to which the server has refused to append lately: a key of another type, a
// right that is missing there. What it refuses for all streams link finds out.
type refusals struct {
	some atomic.Bool // so that a success costs nothing where nothing is refused

	mu sync.Mutex
	of map[string]*refusedStream // by stream
}

// refusedStream is what is known of one of them.
type refusedStream struct {
	since, last time.Time
	events      int
	err         error
}

// note notes that events of a stream were refused.
func (r *refusals) note(stream string, events int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(r.of, func(_ string, one *refusedStream) bool { return one.isOver(now) })
	one := r.of[stream]
	if one == nil {
		if len(r.of) >= maxRefused {
			return
		}
		if r.of == nil {
			r.of = map[string]*refusedStream{}
		}
		one = &refusedStream{since: now}
		r.of[stream] = one
	}
	one.last, one.err = now, err
	one.events += events
	r.some.Store(true)
}

// taken notes that the server has taken events of a stream.
func (r *refusals) taken(stream string) {
	if !r.some.Load() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.of, stream)
	r.some.Store(len(r.of) > 0)
}

// health names the streams, the first maxNamed of them.
func (r *refusals) health(h *Health) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var streams []string
	for stream, one := range r.of {
		if !one.isOver(time.Now()) {
			streams = append(streams, stream)
		}
	}
	slices.Sort(streams)
	for _, stream := range streams[:min(len(streams), maxNamed)] {
		one := r.of[stream]
		h.redisProblem(problemRefused, SeverityError, fmt.Sprintf("%d events of stream %s were refused since %s, the last one at %s: ",
			one.events, stream, one.since.UTC().Format(time.RFC3339), one.last.UTC().Format(time.RFC3339)), one.err)
	}
	if more := len(streams) - maxNamed; more > 0 {
		h.problem(problemRefused, SeverityError, fmt.Sprintf("events of %d more streams were refused", more), "")
	}
}

// problemRefused is the code of the problem that events are refused.
const problemRefused = "publish-refused"

// isOver reports whether it is no problem any more.
func (one *refusedStream) isOver(now time.Time) bool {
	limit := refusedFor
	if errors.Is(one.err, ErrBackPressure) || errors.Is(one.err, ErrUnavailable) {
		limit = refusedSoon
	}
	return now.Sub(one.last) > limit
}

// refuses notes that the server refuses events of a stream. Where it refuses those of all, or is away, link
// knows.
func (b *Bus) refuses(stream string, events int, err error) {
	if b.link == nil || b.look().of(stream).isAway() || b.link.refusedBy(b.redis.ShardOf(stream)) != nil {
		return
	}
	switch class := redisstream.Classify(err); {
	case class == redisstream.Other && errors.Is(err, context.Canceled):
	case class == redisstream.Away && b.redis.IsCluster(): // of slots that no shard serves, say
		b.refusals.note(stream, events, b.redisError("append", stream, err))
	case class == redisstream.Denied, class == redisstream.Other, class == redisstream.BackPressure, class == redisstream.ReadOnly:
		b.refusals.note(stream, events, b.redisError("append", stream, err))
	}
}
