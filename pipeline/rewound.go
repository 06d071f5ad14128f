package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/rishi-platform/millrace/internal/loop"
	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/wire"
)

// Loss is what was accepted and then lost, by no fault of who published it.
type Loss struct {
	Stream   string    `json:"stream"`
	Reason   string    `json:"reason"`   // ReasonRewound, ReasonConflict, ReasonDamaged, ReasonDiscarded
	Events   int       `json:"events"`   // that were lost
	AtLeast  bool      `json:"atLeast"`  // there were more, which this process can't name any more
	Restored int       `json:"restored"` // of them, that are accepted again
	From     Position  `json:"from"`     // where the first one stood, or what is there instead
	To       Position  `json:"to"`       // where the last one stood, or what is there instead
	Time     time.Time `json:"time"`     // when it was noticed
}

// The reasons of a loss.
const (
	// ReasonRewound: Redis had confirmed it and has forgotten it: a restart without all of its last writes on disk, a failover to a replica that was
	// behind, a flush.
	ReasonRewound = "rewound"
	// ReasonConflict: it was spooled with an idempotency key which was used for another event before it could be drained.
	ReasonConflict = "conflict"
	// ReasonDamaged: it was spooled, and the disk does not give it back. Nobody knows its stream any more, which is empty.
	ReasonDamaged = "damaged"
	// ReasonDiscarded: it was spooled, and an operator took it out (DiscardSpooled). Each process that finds its place tells it.
	ReasonDiscarded = "discarded"
)

// lossesShown and lossesFor bound what health says of losses.
const (
	lossesShown = 20
	lossesFor   = 24 * time.Hour
)

// losses are those that this process has noticed, the oldest first.
type losses struct {
	mu    sync.Mutex
	known []*Loss
	told  map[string]bool // what isNew was asked
}

// isNew reports whether it is asked of something for the first time.
func (l *losses) isNew(what string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.told[what] {
		return false
	}
	if l.told == nil {
		l.told = map[string]bool{}
	}
	l.told[what] = true
	return true
}

func (l *losses) add(one Loss) *Loss {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.known = append(l.known, &one)
	l.known = l.known[max(0, len(l.known)-lossesShown):]
	return &one
}

// update changes a loss and returns what it is now.
func (l *losses) update(one *Loss, change func(*Loss)) Loss {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(one)
	return *one
}

func (l *losses) health(h *Health) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h.Lost = []Loss{}
	for _, one := range l.known {
		if time.Since(one.Time) > lossesFor {
			continue
		}
		h.Lost = append(h.Lost, *one)
		if one.Reason == ReasonDamaged || one.Reason == ReasonDiscarded {
			continue // the spool says which file, and from where; an operator wanted it
		}
		if one.Reason == ReasonConflict {
			h.problem("spool-conflict", SeverityError, fmt.Sprintf("an event of stream %s that was spooled is not stored: its idempotency key was used for the one at %s", one.Stream, one.From),
				"give each event a key of its own")
			continue
		}
		text := fmt.Sprintf("redis had forgotten %s of stream %s from %s to %s that it had confirmed; %d of them are appended again",
			one.count(), one.Stream, one.From, one.To, one.Restored)
		severity := SeverityWarning
		if one.AtLeast || one.Restored < one.Events {
			severity = SeverityError
		}
		h.problem("stream-rewound", severity, text, "let redis write each command to disk: appendfsync always")
	}
}

func (l *Loss) count() string {
	if l.AtLeast {
		return fmt.Sprintf("at least %d events", l.Events)
	}
	return fmt.Sprintf("%d events", l.Events)
}

const (
	// marksEvery is how often this process compares what Redis knows with what it has confirmed, where nothing else has told.
	marksEvery = 10 * time.Second
	// namedAtOnce is how many lost events one system.stream.rewound names, if its data may be as long as their IDs.
	namedAtOnce = 1000
)

// lose counts a loss.
func (b *Bus) lose(lost Loss) *Loss {
	noted := b.losses.add(lost)
	if b.cfg.Hooks.Lost != nil {
		b.cfg.Hooks.Lost(lost)
	}
	return noted
}

// suspectRewind asks rewoundLoop to look now.
func (b *Bus) suspectRewind() {
	select {
	case b.rewind <- struct{}{}:
	default: // it has been asked already
	}
}

// mendAtMost is how long the end of a bus waits for a Redis that does not take what is lost. With a spool it is kept there at once.
const mendAtMost = 10 * time.Second

// lookForLosses has rewoundLoop look for the last time, and waits until what is lost is appended again, or mendAtMost is over.
func (b *Bus) lookForLosses() {
	defer time.AfterFunc(mendAtMost, b.giveUp).Stop()
	close(b.ending)
	<-b.looked
	b.giveUp()
}

func (b *Bus) isEnding() bool {
	select {
	case <-b.ending:
		return true
	default:
		return false
	}
}

// rewoundLoop finds out what Redis has forgotten: when it is back after it was away, when an append has told so, from time to time, and at the end.
func (b *Bus) rewoundLoop() {
	defer close(b.looked)
	var mending sync.WaitGroup
	defer mending.Wait()
	ticker := time.NewTicker(marksEvery)
	defer ticker.Stop()
	for ending := false; !ending; {
		select {
		case <-b.stopped.Done():
			return
		case <-ticker.C:
		case <-b.rewind:
		case <-b.ending:
			ending = true
		}
		if b.isAway() && !ending {
			continue // its return asks again
		}
		b.confirmed.tidy()
		begun, all := time.Now(), true
		look := b.look()
		for _, stream := range b.confirmed.names() {
			err := errOutage
			if !look.of(stream).isAway() {
				err = b.compareMarks(stream)
			}
			all = all && err == nil
			there := redisstream.Classify(err) != redisstream.Away
			if !there && !ending && !b.redis.IsCluster() { // in Cluster others may be there
				break
			}
			if f := b.confirmed.takeForgotten(stream); !f.isEmpty() {
				all = false
				let := b.spool.holdKept()
				mending.Go(func() { defer let(); b.rewound(stream, f) }) // one stream must not hold up others
			}
		}
		if all {
			b.spool.marksSeen(begun, ending)
		}
	}
}

// compareMarks compares the marks of a stream's writers. An error says that they were not seen: the next round finds out.
func (b *Bus) compareMarks(stream string) error {
	writers, should := b.confirmed.marks(stream)
	if len(writers) == 0 {
		return nil
	}
	is, err := b.redis.LastAppends(b.mending, stream, writers...)
	if err != nil {
		b.link.suspect()
		return err
	}
	b.confirmed.check(stream, writers, should, is)
	return nil
}

// rewound names what Redis has forgotten of a stream, counts it, and appends it again.
func (b *Bus) rewound(stream string, f forgotten) {
	noticed := time.Now().UTC()
	all := b.sift(stream, &f)
	spooled, atLeast := 0, false
	for _, g := range f.gaps {
		complete := b.spool.keptEvents(stream, g, func(events []forgottenEvent) { spooled += len(events) })
		atLeast = atLeast || !complete
	}
	if len(all) == 0 && spooled == 0 && !atLeast {
		b.logger.Warn("marks of a stream's appends are gone, but nothing else is: the stream was removed, or somebody deletes the keys beside it", "stream", stream)
		return
	}
	lost := Loss{Stream: stream, Reason: ReasonRewound, Events: max(1, spooled+len(all)), AtLeast: atLeast, Time: noticed} // a mark that is gone stands for one at least
	lost.From, lost.To = reach(all)
	b.logger.Error("redis has forgotten events that it had confirmed", "stream", stream, "events", lost.Events, "at_least", lost.AtLeast,
		"from", lost.From, "to", lost.To, "restore", !b.cfg.NoRestore)
	noted := b.lose(lost)
	mend := func(events []forgottenEvent) {
		for part := range slices.Chunk(events, min(namedAtOnce, 1+b.cfg.MaxDataBytes/1024)) {
			restored := 0
			if !b.cfg.NoRestore {
				restored = b.restore(stream, part)
				b.losses.update(noted, func(l *Loss) { l.Restored += restored })
			}
			b.announceLoss(Loss{Stream: stream, Reason: ReasonRewound, Events: len(part), AtLeast: lost.AtLeast, Restored: restored,
				Time: lost.Time}, part)
		}
	}
	for _, g := range f.gaps { // what is kept in memory came later
		b.spool.keptEvents(stream, g, mend)
	}
	mend(all)
	if spooled+len(all) == 0 {
		b.announceLoss(lost, nil)
	}
	if restored := b.losses.update(noted, func(*Loss) {}).Restored; restored > 0 {
		level := slog.LevelInfo
		if time.Since(lost.Time) < time.Second {
			level = slog.LevelDebug // the line before was enough
		}
		b.logger.Log(context.Background(), level, "events that redis had forgotten are accepted again", "stream", stream, "events", restored)
	}
}

// forgottenEvent is one event that Redis has lost.
type forgottenEvent struct {
	message redisstream.Message
	at      redisstream.ID // zero: nobody knows where
	seen    *redisstream.Seen
	noted   time.Time // when Redis had confirmed it, by our clock
}

// clockSkew is by how much the clock of Redis and ours may differ where one is compared with the other.
const clockSkew = 5 * time.Second

// stoodAt reports whether an event stood in its stream when that was removed, in ms by the clock of Redis; 0: it never was.
func (e *forgottenEvent) stoodAt(removed uint64) bool {
	switch {
	case removed == 0:
		return false
	case !e.at.IsZero():
		return e.at.MS <= removed
	}
	return e.noted.Before(time.UnixMilli(int64(removed)).Add(clockSkew))
}

func (f *forgotten) events() []forgottenEvent {
	var all []forgottenEvent
	for _, a := range f.appends {
		for i, m := range a.messages {
			one := forgottenEvent{message: m, seen: a.seen, noted: a.noted}
			if !a.first.IsZero() {
				one.at = a.first.Plus(i)
			}
			all = append(all, one)
		}
	}
	return all
}

// reach returns where the first and the last of some events stood, as far as that is known.
func reach(events []forgottenEvent) (from, to Position) {
	for _, e := range events {
		if e.at.IsZero() {
			continue
		}
		if to = positionOf(e.at); from == "" {
			from = to
		}
	}
	return from, to
}

// sift returns the events that are lost indeed, and takes away the gaps of what is not. A mark can be gone alone: where the stream was removed, where keys are evicted, or where it was read from a
// master that is none any more. It asks until it knows; where nobody may ask, or this process ends while Redis is away, it takes all for lost.
func (b *Bus) sift(stream string, f *forgotten) (lost []forgottenEvent) {
	all := f.events()
	var backoff loop.Backoff
	for {
		removed, err := b.redis.RemovedAt(b.mending, stream)
		if redisstream.Classify(err) == redisstream.Denied {
			removed, err = 0, nil
		}
		var holds []bool
		if err == nil {
			places := make([]redisstream.Place, len(all))
			for i, e := range all {
				places[i] = redisstream.Place{ID: e.at, UUID: e.message.UUID}
			}
			holds, err = b.redis.Holds(b.mending, stream, places)
		}
		unknowable := redisstream.Classify(err) == redisstream.Denied || b.isEnding() && b.look().of(stream).isAway()
		if err != nil && !unknowable && backoff.Wait(b.mending) {
			continue
		}
		for i, e := range all {
			gone := err != nil || !holds[i]
			if gone && !e.stoodAt(removed) {
				lost = append(lost, e)
			}
		}
		if removed != 0 || len(lost) == 0 && len(all) > 0 {
			f.gaps = nil
		}
		return lost
	}
}

// restore appends lost events again, as often as it takes, and returns how many are accepted: not those whose own key was used
// for another event since, and fewer where the bus is closed meanwhile. Each is appended once by the position that it had, or by its own key, so an append whose outcome nobody knows is simply repeated.
func (b *Bus) restore(stream string, lost []forgottenEvent) (restored int) {
	var backoff loop.Backoff
	for len(lost) > 0 {
		accepted, left := b.restoreOnce(stream, lost)
		restored += accepted
		if lost = left; len(lost) > 0 && !backoff.Wait(b.mending) {
			b.logger.Error("events that redis had forgotten are not appended again: the bus is closed", "stream", stream, "events", len(lost), "first", lost[0].message.UUID)
			break
		}
	}
	return restored
}

// restoreOnce returns how many are accepted, and those that are to be tried again.
func (b *Bus) restoreOnce(stream string, lost []forgottenEvent) (accepted int, left []forgottenEvent) {
	c := newCall(len(lost))
	waiting := make([]pending, len(lost))
	for i, one := range lost {
		m := one.message
		d := b.decode(stream, m.Entry(redisstream.ID{}))
		if d.Origin != OriginRestored {
			if marked, err := redisstream.WithPairs(m.Metadata, redisstream.Pair{Key: wire.KeyOrigin, Value: OriginRestored}); err == nil {
				m.Metadata = marked
			}
		}
		seen := one.seen
		if seen == nil {
			seen = &redisstream.Seen{Key: short("rewound\x00%s\x00%s", one.at, m.UUID), Window: keyWindow}
		}
		waiting[i] = pending{call: c, index: i, stream: stream, message: m, once: seen, subject: d.Subject, spoolable: b.spool != nil}
	}
	b.queue(b.mending, RedisOnly, waiting) // what this process remembers it remembers already
	for i, o := range c.wait(b.mending) {
		switch {
		case o.Durability == Stored || o.Durability == Spooled:
			accepted++
		case errors.Is(o.Err, ErrConflict):
			b.logger.Error("event that redis had forgotten is not appended again: its idempotency key was used for another one since", "stream", stream, "id", lost[i].message.UUID)
		default:
			left = append(left, lost[i])
		}
	}
	return accepted, left
}

// announceLoss publishes system.stream.rewound, which names the lost events.
func (b *Bus) announceLoss(lost Loss, events []forgottenEvent) {
	lost.From, lost.To = reach(events)
	about := struct {
		Instance string `json:"instance"`
		Loss
		IDs []string `json:"ids"`
	}{Instance: b.instance, Loss: lost, IDs: []string{}}
	for _, e := range events {
		about.IDs = append(about.IDs, e.message.UUID)
	}
	data, _ := json.Marshal(about) // strings and numbers always marshal
	ctx, cancel := context.WithTimeout(b.mending, announceTimeout)
	defer cancel()
	event := Event{Type: "system.stream.rewound", Subject: lost.Stream, Data: data}
	if _, err := b.publishAs(ctx, PublishOptions{}, []Event{event}, true); err != nil && b.mending.Err() == nil {
		b.logger.Error("loss could not be published", "stream", lost.Stream, "events", lost.Events, "err", err)
	}
}
