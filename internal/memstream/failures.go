package memstream

import (
	"context"
	"maps"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// failureRecord is the record of a group that fails, as internal/redisstream/lua/failures.lua keeps it.
type failureRecord struct {
	begun  time.Time
	last   int64 // slice of the last failure
	rows   map[flowRow]int64
	events map[string]int64 // the slice in which it was counted, by event
}

type flowRow struct {
	slice           int64
	consumer, print string
}

const (
	flowSlices = 6
	flowSlice  = 10 * time.Second
	flowEvents = 1000 // of more, each failure counts
)

func flowSliceOf(now time.Time) int64 { return now.UnixNano() / int64(flowSlice) }

// count counts that a delivery has failed, if it has.
func (f *failureRecord) count(consumer string, of redisstream.Failure, now time.Time) {
	if of.Print == "" {
		return
	}
	slice := flowSliceOf(now)
	f.last = slice
	if at, counted := f.events[of.Event]; counted && at > slice-flowSlices {
		return
	}
	if f.rows == nil {
		f.begun, f.rows, f.events = now, map[flowRow]int64{}, map[string]int64{}
	}
	if len(f.events) >= flowEvents {
		maps.DeleteFunc(f.events, func(_ string, at int64) bool { return at <= slice-flowSlices })
	}
	if len(f.events) < flowEvents {
		f.events[of.Event] = slice
	}
	f.rows[flowRow{slice, consumer, of.Print}]++
}

func (m *Memory) Flow(_ context.Context, c redisstream.Consumer, stream string, s redisstream.Share) (redisstream.Flow, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if g := m.group(stream, c.Group); g != nil {
		return g.failures.flow(c.Name, s, time.Now()), nil
	}
	return redisstream.Flow{}, nil
}

func (f *failureRecord) flow(consumer string, s redisstream.Share, now time.Time) redisstream.Flow {
	slice, fails := flowSliceOf(now), false
	for row := range f.rows {
		if row.slice <= slice-flowSlices || s.Anew && row.consumer == consumer {
			delete(f.rows, row)
		} else if row.print != redisstream.Handled {
			fails = true
		}
	}
	if f.last <= slice-flowSlices || s.Anew && !fails {
		*f = failureRecord{}
		return redisstream.Flow{}
	}
	if s.Handled > 0 {
		f.rows[flowRow{slice, consumer, redisstream.Handled}] += s.Handled
	}
	flow := redisstream.Flow{Age: now.Sub(f.begun)}
	if !s.Sum {
		return flow
	}
	sums := map[flowRow]int64{}
	for row, events := range f.rows {
		row.slice = 0
		sums[row] += events
	}
	for row, events := range sums {
		flow.Rows = append(flow.Rows, redisstream.FlowRow{Consumer: row.consumer, Print: row.print, Events: events})
	}
	return flow
}
