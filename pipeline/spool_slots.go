package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rishi-platform/millrace/internal/loop"
	"github.com/rishi-platform/millrace/internal/spool"
)

// slots is what is known of the slots in the folder of spools: the own one, one that is being adopted, those of other servers, and those that
// can't be drained. It is guarded by the lock of the spooling.
type slots struct {
	server  spool.Server
	found   []spool.Slot         // besides the own one, by the last survey
	waits   map[string]time.Time // since when those have been seen that wait to be adopted
	adopted map[string]*spooling // those of dead processes that are being drained; nil: about to be
	left    map[string]leftSlot  // those that this process could not drain
}

// leftSlot is a slot that can't be drained by this process.
type leftSlot struct {
	why   error
	until time.Time // then it is tried again
}

const (
	// adoptEvery is how often it is looked whether a process has died and left a spool that nobody drains.
	adoptEvery = 10 * time.Second
	// adoptMost is how many slots are drained beside the own one. What Redis refuses keeps one for as long as that lasts.
	adoptMost = 4
	// leaveFor is how long a slot is left alone that can't be drained.
	leaveFor = 5 * time.Minute
	// waitsLong is after how long health names a slot that waits to be adopted.
	waitsLong = time.Minute
)

// address is that of Redis, as this process was given it.
func (b *Bus) address() string {
	o := b.cfg.Redis
	return fmt.Sprintf("%s%s/%d", strings.Join(o.Addrs, ","), o.MasterName, o.DB)
}

// identify asks Redis for the ID that is kept in it, and gives it the known one, or a new one, where it has none. Where there is no answer what
// is known has to do.
func (b *Bus) identify(known spool.Server) spool.Server {
	ctx, cancel := context.WithTimeout(b.stopped, checkTimeout)
	defer cancel()
	if id, err := b.redis.ServerID(ctx, cmp.Or(known.ID, newID())); err == nil && id != "" {
		known.ID = id
	}
	return known
}

// adoptLoop drains what dead processes have left beside this bus's own spool: where fewer start again than died, some would stay.
func (s *spooling) adoptLoop() {
	var adopting sync.WaitGroup
	defer adopting.Wait()
	ended := make(chan struct{}, adoptMost)
	for {
		s.identify()
		for _, slot := range s.survey() {
			if s.bus.isAway() || s.bus.stopped.Err() != nil {
				break
			}
			if s.begins(slot) {
				adopting.Go(func() {
					s.adopt(slot.Dir)
					ended <- struct{}{}
				})
			}
		}
		timer := time.NewTimer(adoptEvery)
		select {
		case <-timer.C:
		case <-ended: // there may be another
		case <-s.bus.stopped.Done():
		}
		timer.Stop()
		if !loop.Sleep(s.bus.stopped, checkSoon/5) {
			return
		}
	}
}

// begins reports whether a slot is to be adopted now, and notes that it is.
func (s *spooling) begins(slot spool.Slot) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.isOrphan(slot) || len(s.slots.adopted) >= adoptMost {
		return false
	}
	if s.slots.adopted == nil {
		s.slots.adopted = map[string]*spooling{}
	}
	s.slots.adopted[slot.Dir] = nil
	return true
}

// identify finds out which server it is, and notes it in the own slot.
func (s *spooling) identify() {
	known := s.server()
	if s.bus.isAway() {
		return
	}
	now := s.bus.identify(known)
	if now == known {
		return
	}
	if err := s.log.IsFor(now); err != nil { // the slot is known by its address still
		s.bus.logger.Error("spool can't note which redis it is for", "dir", s.log.Dir(), "err", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slots.server = now
}

func (s *spooling) server() spool.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.slots.server
}

// survey looks at all slots of the folder besides the own one, and says which are news.
func (s *spooling) survey() []spool.Slot {
	var found []spool.Slot
	for _, slot := range spool.List(s.bus.spoolDir()) {
		if slot.Dir != s.log.Dir() {
			found = append(found, slot)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	known := map[string]bool{}
	for _, slot := range s.slots.found {
		known[slot.Dir] = s.isForeign(slot) || slot.Err != nil
	}
	for _, slot := range found {
		switch {
		case known[slot.Dir]:
		case slot.Err != nil:
			s.bus.logger.Error("slot of the spool can't be used", "dir", slot.Dir, "err", slot.Err)
		case s.isForeign(slot):
			s.bus.logger.Warn("spool of another Redis is left alone; start a process with that Redis to drain it", "dir", slot.Dir, "redis", slot.Server.Address)
		}
	}
	s.slots.found = found
	waits := map[string]time.Time{}
	for _, slot := range found {
		if s.isOrphan(slot) {
			if waits[slot.Dir] = s.slots.waits[slot.Dir]; waits[slot.Dir].IsZero() {
				waits[slot.Dir] = time.Now()
			}
		}
	}
	s.slots.waits = waits
	return found
}

// isForeign reports whether a slot holds records for another server, and no process. The lock is held.
func (s *spooling) isForeign(slot spool.Slot) bool {
	return slot.Err == nil && !slot.InUse && slot.Holds && !slot.Server.Is(s.slots.server)
}

// isOrphan reports whether a slot is to be drained by whoever comes first. The lock is held.
func (s *spooling) isOrphan(slot spool.Slot) bool {
	if slot.Err != nil || slot.InUse || !slot.Holds || s.isForeign(slot) {
		return false
	}
	if _, adopted := s.slots.adopted[slot.Dir]; adopted {
		return false
	}
	left, is := s.slots.left[slot.Dir]
	return !is || time.Now().After(left.until)
}

// adopt drains a slot until nothing is left that this version can read, or the bus is closed.
func (s *spooling) adopt(dir string) {
	s.mu.Lock()
	before, is := s.slots.left[dir]
	s.mu.Unlock()
	again := is && errors.Is(before.why, spool.ErrUnreadable) // minutes later, as before
	log, err := spool.Adopt(dir, s.server(), spool.Options{Max: s.bus.cfg.SpoolBytes, PassOver: again})
	if err == nil && log != nil {
		err = s.drainAdopted(dir, log)
	}
	if err == nil && s.bus.stopped.Err() == nil && s.holdsStill(dir) {
		if err = before.why; err == nil { // else it is a segment of which nothing could be had
			err = errors.New("something stays in it that can't be drained")
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.slots.adopted, dir)
	if errors.Is(err, spool.ErrInUse) || errors.Is(err, spool.ErrForeign) {
		return // since it was looked at
	}
	if err == nil {
		delete(s.slots.left, dir)
		return
	}
	if s.slots.left == nil {
		s.slots.left = map[string]leftSlot{}
	}
	s.slots.left[dir] = leftSlot{err, time.Now().Add(leaveFor)}
	if !is || before.why.Error() != err.Error() {
		s.bus.logger.Error("spool of a process that has ended can't be drained", "dir", dir, "err", err)
	}
}

// holdsStill reports whether something stands in a slot that no process has.
func (s *spooling) holdsStill(dir string) bool {
	return slices.ContainsFunc(spool.List(s.bus.spoolDir()), func(slot spool.Slot) bool { return slot.Dir == dir && slot.Holds && !slot.InUse })
}

func (s *spooling) drainAdopted(dir string, log *spool.Log) error {
	of, err := newSpooling(s.bus, log)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.slots.adopted[dir] = of
	s.keepDamages(of.damages)
	s.mu.Unlock()
	of.drain(true)
	s.mu.Lock()
	s.keepDamages(of.damages) // its drain has ended
	s.mu.Unlock()
	if of.unreadable > 0 {
		err = fmt.Errorf("%d records stay: %w", of.behind, errSpoolRecord)
	}
	return errors.Join(err, log.Close())
}

// healthOfSlots names the slots that nobody drains.
func (s *spooling) healthOfSlots(h *Health) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, slot := range s.slots.found {
		left, isLeft := s.slots.left[slot.Dir]
		switch {
		case slot.Err != nil:
			h.problem("spool-stuck", SeverityError, fmt.Sprintf("slot %s of the spool can't be drained: %v", slot.Dir, slot.Err),
				"see to the folder; where only its file owner is damaged: millrace spool drain --adopt-foreign")
		case s.isForeign(slot):
			h.problem("spool-of-another-redis", SeverityWarning, "events for another Redis, "+slot.Server.Address+", stand in "+slot.Dir,
				"millrace spool drain with that Redis; or with --adopt-foreign, if it is this one, or they are to go here")
		case s.isOrphan(slot) && !h.State.isAway() && s.hasWaited(slot.Dir):
			h.problem("spool-stuck", SeverityError, "events of a process that has ended wait in "+slot.Dir+": others are drained before",
				"see what keeps those; or millrace spool drain")
		case isLeft && !slot.InUse && slot.Holds:
			h.problem("spool-stuck", SeverityError, fmt.Sprintf("spool of a process that has ended, %s, can't be drained: %v", slot.Dir, left.why),
				"start the version that has written it, with this folder; or see to the folder")
		}
	}
}

// hasWaited reports whether a slot has waited for long to be adopted. One of which nobody has noted since when
// has just been given up by who had adopted it. The lock is held.
func (s *spooling) hasWaited(dir string) bool {
	since, waits := s.slots.waits[dir]
	return waits && time.Since(since) > waitsLong
}
