package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/rishi-platform/millrace/internal/pattern"
	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/wire"
)

// DeadLetter is a delivery that a group gave up on. Its JSON is that of "millrace dead ls --json".
type DeadLetter struct {
	Position Position `json:"position"` // its own, among the dead letters of the group
	Event    Event    `json:"event"`
	Death

	others []redisstream.Pair // metadata that a copy carries on
}

// Death says why and when a group gave up on a delivery. It is written behind the fields of the original entry.
type Death struct {
	Stream           string    `json:"stream"`
	OriginalPosition Position  `json:"originalPosition"` // of the event in the stream
	Group            string    `json:"group"`
	Consumer         string    `json:"consumer"` // that gave up
	Kind             string    `json:"kind"`     // KindError, …
	Cause            string    `json:"cause"`    // text of the last error, at most 4 KiB
	Fingerprint      string    `json:"fingerprint"`
	Stack            string    `json:"stack,omitempty"` // of a panic, at most 8 KiB
	Attempts         int       `json:"attempts"`        // that were made, crashes included
	FirstAt          time.Time `json:"firstAt"`         // when the first attempt began
	LastAt           time.Time `json:"lastAt"`          // when the last one ended
}

// DeadQuery selects dead letters of one group. Empty fields select everything.
type DeadQuery struct {
	Stream, Group string    // both must be given
	After         Position  // strictly behind this one in the direction of reading
	Since, Until  time.Time // by the time of burial; Since included, Until excluded
	Types         []string  // patterns of event types, any of which may match
	Kind          string
	Fingerprint   string
	CorrelationID string
	Limit         int  // at most so many; 0: no bound
	Newest        bool // newest first
}

func (q DeadQuery) matches(d *DeadLetter) bool {
	return (len(q.Types) == 0 || pattern.MatchAny(q.Types, d.Event.Type)) &&
		(q.Kind == "" || q.Kind == d.Kind) &&
		(q.Fingerprint == "" || q.Fingerprint == d.Fingerprint) &&
		(q.CorrelationID == "" || q.CorrelationID == d.Event.CorrelationID)
}

// errLaneFull is what keeps deliveries from a group.
var errLaneFull = errors.New("lane of the group is full")

// deadRange reads the dead letters of a group, as a pager does.
type deadRange struct {
	log   deadLog
	group string
}

func (l deadRange) Range(ctx context.Context, stream string, from, to redisstream.ID, count int, reverse bool) ([]redisstream.Entry, error) {
	return l.log.Dead(ctx, stream, l.group, from, to, count, reverse)
}

// DeadLetters yields the dead letters that q selects. It reads page by page, of up to 256 letters or about
// 4 MiB; an error is yielded once, as the last thing.
func (b *Bus) DeadLetters(ctx context.Context, q DeadQuery) iter.Seq2[DeadLetter, error] {
	return func(yield func(DeadLetter, error) bool) {
		if err := checkStreamGroup(q.Stream, q.Group); err != nil {
			yield(DeadLetter{}, err)
			return
		}
		p := &pager{source: deadRange{b.log, q.Group}, stream: q.Stream, to: redisstream.MaxID, reverse: q.Newest, count: firstCount(q.Limit)}
		if !q.Since.IsZero() {
			p.from = At(q.Since).bound()
		}
		if !q.Until.IsZero() {
			p.to = At(q.Until).bound().Prev()
		}
		if q.After != "" {
			id, err := redisstream.ParseID(string(q.After))
			if err != nil {
				yield(DeadLetter{}, fmt.Errorf("after %q: %w", q.After, err))
				return
			}
			p.goOn(id, false)
		}
		p.done = p.done || p.from.Compare(p.to) > 0
		for n := 0; ; {
			entry, ok, err := p.head(ctx)
			if err != nil {
				yield(DeadLetter{}, b.redisError("read dead letters of group "+q.Group+" of", q.Stream, err))
				return
			}
			if !ok {
				return
			}
			p.take()
			d := b.deadLetter(q.Stream, q.Group, entry)
			if !q.matches(&d) {
				continue
			}
			if !yield(d, nil) {
				return
			}
			if n++; n == q.Limit {
				return
			}
		}
	}
}

// DeadLetter returns the dead letter at a position; ErrNoDeadLetter where there is none.
func (b *Bus) DeadLetter(ctx context.Context, stream, group string, at Position) (DeadLetter, error) {
	if err := checkStreamGroup(stream, group); err != nil {
		return DeadLetter{}, err
	}
	id, err := redisstream.ParseID(string(at))
	if err != nil {
		return DeadLetter{}, fmt.Errorf("position %q: %w", at, err)
	}
	entries, err := b.log.Dead(ctx, stream, group, id, id, 1, false)
	if err != nil {
		return DeadLetter{}, b.redisError("read dead letters of group "+group+" of", stream, err)
	}
	if len(entries) == 0 {
		return DeadLetter{}, fmt.Errorf("%w at %s in group %s of stream %s", ErrNoDeadLetter, at, group, stream)
	}
	return b.deadLetter(stream, group, entries[0]), nil
}

// deadLetter reads an entry of the dead letters: the original's fields, and behind them the report.
func (b *Bus) deadLetter(stream, group string, e redisstream.Entry) DeadLetter {
	fields := e.Fields()
	var report string
	if n := len(fields); n >= 2 && fields[n-2] == redisstream.FieldDead {
		report, fields = fields[n-1], fields[:n-2]
	}
	d := DeadLetter{Position: positionOf(e.ID)}
	_ = json.Unmarshal([]byte(report), &d.Death) // what is wrong with it stays empty: the event counts
	at := e.ID
	if original, err := redisstream.ParseID(string(d.OriginalPosition)); err == nil {
		at = original
	}
	read := b.decode(stream, redisstream.NewEntry(at, fields))
	d.Stream, d.Group, d.Event, d.others = stream, group, Event(read.Event), read.Others
	return d
}

const (
	// requeueMost is how many dead letters one round trip of Requeue gives back at most.
	requeueMost = 200
	// requeueBytes is about how many bytes of them: one may have a MiB.
	requeueBytes = 4 << 20
)

// Requeue gives dead letters back to their group, and to it alone: they arrive by its lane, as a first attempt, and are dead letters no more.
// It returns how many; one that is gone is passed over. Two round trips give back up to 200, or about 4 MiB of them. Each has its own
// result: one that can't be given back is in the error, and the others are given back all the same, unless the reason is that of all of
// them. ErrBackPressure means that the lane is full, and the rest is still dead.
func (b *Bus) Requeue(ctx context.Context, stream, group string, at ...Position) (int, error) {
	if err := checkStreamGroup(stream, group); err != nil {
		return 0, err
	}
	r := requeue{bus: b, stream: stream, group: group}
	var ids []redisstream.ID
	for _, p := range at {
		id, err := redisstream.ParseID(string(p))
		if err != nil {
			r.errs = append(r.errs, fmt.Errorf("position %q: %w", p, err))
			continue
		}
		ids = append(ids, id)
	}
	for len(ids) > 0 {
		looked, goOn := r.some(ctx, ids[:min(len(ids), requeueMost)])
		if !goOn {
			break
		}
		ids = ids[looked:]
	}
	return r.done, errors.Join(r.errs...)
}

// requeue is one call of Requeue.
type requeue struct {
	bus           *Bus
	stream, group string
	done          int
	errs          []error
}

// some gives back the first ones of those at the given IDs. It returns how many it has looked at, and
// whether others may be given back.
func (r *requeue) some(ctx context.Context, ids []redisstream.ID) (looked int, goOn bool) {
	letters, looked, err := r.bus.log.DeadAt(ctx, r.stream, r.group, ids, requeueBytes)
	if err != nil {
		r.fail("read dead letters of group "+r.group+" of", err)
	}
	if len(letters) == 0 {
		return looked, looked > 0
	}
	copies := make([]redisstream.Copy, len(letters))
	for i, letter := range letters {
		d := r.bus.deadLetter(r.stream, r.group, letter)
		event := wire.Decoded{Event: wire.Event(d.Event), Position: string(d.OriginalPosition), Others: d.others}
		copies[i] = redisstream.Copy{Dead: letter.ID, Message: wire.Again(redisstream.ID{}, &event, 1, OriginRequeue)}
	}
	settled, err := r.bus.log.Requeue(ctx, r.stream, r.group, copies)
	failed, full := 0, false
	for _, s := range settled {
		switch s {
		case redisstream.Done:
			r.done++
		case redisstream.Full:
			full = true
		case redisstream.Unknown:
			failed++
		}
	}
	if err != nil {
		r.fail(fmt.Sprintf("requeue %d dead letters of group %s of", failed, r.group), err)
	}
	if full {
		r.errs = append(r.errs, &RedisError{Op: "requeue", Key: r.stream, Kind: ErrBackPressure, Err: errLaneFull,
			Hint: "requeue the rest when the group has worked off its lane"})
	}
	ofAll := err != nil && redisstream.Classify(err) != redisstream.Other // an outage, a missing right, …
	return looked, !full && !ofAll && ctx.Err() == nil
}

func (r *requeue) fail(op string, err error) {
	r.errs = append(r.errs, r.bus.redisError(op, r.stream, err))
}

// Discard deletes dead letters for good and returns how many were there.
func (b *Bus) Discard(ctx context.Context, stream, group string, at ...Position) (int, error) {
	if err := checkStreamGroup(stream, group); err != nil {
		return 0, err
	}
	ids := make([]redisstream.ID, len(at))
	for i, p := range at {
		var err error
		if ids[i], err = redisstream.ParseID(string(p)); err != nil {
			return 0, fmt.Errorf("position %q: %w", p, err)
		}
	}
	if len(ids) == 0 {
		return 0, nil
	}
	n, err := b.log.Discard(ctx, stream, group, ids)
	return n, b.redisError("discard dead letters of group "+group+" of", stream, err)
}

// checkStreamGroup says what is wrong with the names of a stream and a group.
func checkStreamGroup(stream, group string) error {
	var faults []error
	if err := CheckStream(stream); err != nil {
		faults = append(faults, fmt.Errorf("stream %q %w", stream, err))
	}
	if err := CheckName(group); err != nil {
		faults = append(faults, fmt.Errorf("group %q %w", group, err))
	}
	return errors.Join(faults...)
}
