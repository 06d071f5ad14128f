package pipeline

import (
	"context"
	"errors"
	"time"

	"github.com/rishi-platform/millrace/internal/loop"
	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/wire"
)

// ReplayOptions vary a Replay.
type ReplayOptions struct {
	// Rate is the most events per second. Default: as fast as the group takes them.
	Rate float64
	// DryRun only counts.
	DryRun bool
	// Progress is called now and then with the number of events so far. It must be quick.
	Progress func(events int)
}

// Replay gives events of one stream's history to one group again, and to it alone: they arrive by its lane, with Delivery.Origin
// OriginReplay, as a first attempt. The query names the stream and selects the events; its Source is Redis where there is one, its Follow must
// be false. It returns how many events were given. When the lane is full it waits until the group has worked off some of it. Where ctx ends
// first, what was given stays given.
func (b *Bus) Replay(ctx context.Context, q Query, group string, o ReplayOptions) (int, error) {
	if err := b.checkReplay(ctx, &q, group); err != nil {
		return 0, err
	}
	r := replay{bus: b, stream: q.Streams[0], group: group, options: o, begun: time.Now()}
	for record, err := range b.History(ctx, q) {
		if err == nil {
			err = r.add(ctx, &record)
		}
		if err != nil {
			return r.given, err
		}
	}
	return r.given, r.flush(ctx)
}

func (b *Bus) checkReplay(ctx context.Context, q *Query, group string) error {
	switch {
	case len(q.Streams) != 1:
		return errors.New("replay: the query must name one stream")
	case q.Follow:
		return errors.New("replay: a query that follows has no end")
	}
	if q.Source = FromRedis; b.redis == nil {
		q.Source = FromLocal
	}
	_, err := b.group(ctx, q.Streams[0], group)
	return err
}

// replayMost is how many events one step of a replay gives at most.
const replayMost = 100

// replay is a Replay under way.
type replay struct {
	bus           *Bus
	stream, group string
	options       ReplayOptions
	begun         time.Time
	batch         []redisstream.Copy
	given         int
}

func (r *replay) add(ctx context.Context, record *Record) error {
	if r.options.DryRun {
		if r.given++; r.given%replayMost == 0 {
			r.progress()
		}
		return nil
	}
	e := wire.Decoded{Event: wire.Event(record.Event), Position: string(record.Position)}
	r.batch = append(r.batch, redisstream.Copy{Message: wire.Again(redisstream.ID{}, &e, 1, OriginReplay)})
	if len(r.batch) < r.batchSize() {
		return nil
	}
	return r.flush(ctx)
}

// batchSize is how many events one step gives: a tenth of a second's at a rate.
func (r *replay) batchSize() int {
	if r.options.Rate <= 0 {
		return replayMost
	}
	return min(max(int(r.options.Rate/10), 1), replayMost)
}

// flush gives the batch to the group, when it is time.
func (r *replay) flush(ctx context.Context) error {
	if rate := r.options.Rate; rate > 0 {
		due := r.begun.Add(time.Duration(float64(r.given) / rate * float64(time.Second)))
		if !loop.Sleep(ctx, time.Until(due)) {
			return context.Cause(ctx)
		}
	}
	var backoff loop.Backoff
	for len(r.batch) > 0 {
		done, looked, err := r.bus.log.Enqueue(ctx, r.stream, r.group, r.batch)
		if err != nil {
			return r.bus.redisError("replay to group "+r.group+" of", r.stream, err)
		}
		r.given += done
		r.batch = r.batch[looked:]
		if len(r.batch) > 0 && !backoff.Wait(ctx) { // the lane is full
			return context.Cause(ctx)
		}
	}
	r.batch = r.batch[:0]
	r.progress()
	return nil
}

func (r *replay) progress() {
	if r.options.Progress != nil {
		r.options.Progress(r.given)
	}
}
