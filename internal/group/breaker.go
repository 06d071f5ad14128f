package group

import (
	"cmp"
	"context"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/wire"
)

// The breaker finds out that a group fails as a whole: a database that is away makes every delivery
// fail, and would drain the streams into the dead letters. It also finds out that one consumer fails
// while its siblings do not: then that one stops itself (sick.go).
//
// The group has one record per stream, in the log: how many different events each consumer has failed,
// by fingerprint, and how many it has handled, within the last minute. The scripts that settle a failure
// count it, so that it costs no round trip, and count an event once, whichever consumers it fails with:
// a consumer alone could not tell, and five events that are tried again and again must remain five. So
// the record begins with a failure, and ends a minute after the last one. A success adds one to a
// counter here. A beat says whether there is a record, and only then the consumer adds its successes,
// and gets the sums: a healthy group pays for one EXISTS. What was handled before the record began says
// nothing about now, and is left out. Only a consumer that has handled nothing since it failed last asks
// for the sums: a group of which a few events fail has a record all the time, and the sums of 30
// consumers cost the server 0.45 ms.
//
// A consumer adds up the records of its streams, and judges (judge). Only one that fails itself says
// anything about the others, so that a consumer which works never pauses the group for a sick one. It
// hears of its siblings' successes two beats late at most: before, it does not decide against them.

// The numbers of the breaker.
const (
	breakerFew     = 20   // so many different events must have been settled, if none has succeeded
	breakerMany    = 200  // or so many,
	breakerFailed  = 0.95 // if that part of them has failed
	breakerOneKind = 0.80 // and that part of the failures has one fingerprint
	// breakerHeard is how old a record must be, so that each living consumer has had the time to add its
	// successes: with the first beat it hears of the record, with the second one it adds them.
	breakerHeard = 2*beatEvery + 500*time.Millisecond
	// breakerReasons is of how many fingerprints a consumer keeps the last error.
	breakerReasons = 16
)

// flowCount is what has been settled, by one consumer or several.
type flowCount struct {
	handled, failed int64
	prints          map[string]int64 // failed, by fingerprint
}

func (n *flowCount) add(print string, events int64) {
	if print == redisstream.Handled {
		n.handled += events
		return
	}
	n.failed += events
	if n.prints == nil {
		n.prints = map[string]int64{}
	}
	n.prints[print] += events
}

func (n *flowCount) addAll(of *flowCount) {
	n.add(redisstream.Handled, of.handled)
	for print, events := range of.prints {
		n.add(print, events)
	}
}

// fails reports whether nearly nothing succeeds, of however few.
func (n *flowCount) fails() bool {
	return n.failed > 0 && float64(n.failed) >= breakerFailed*float64(n.handled+n.failed)
}

// reason returns the fingerprint of most of the failures; empty where too many have another one.
func (n *flowCount) reason() (print string) {
	for _, p := range slices.Sorted(maps.Keys(n.prints)) {
		if n.prints[p] > n.prints[print] {
			print = p
		}
	}
	if float64(n.prints[print]) < breakerOneKind*float64(n.failed) {
		return ""
	}
	return print
}

// down returns the reason why so much has failed that it is to be stopped; empty where it is not.
func (n *flowCount) down() (print string) {
	settled := n.handled + n.failed
	if settled >= breakerFew && n.handled == 0 || settled >= breakerMany && n.fails() {
		return n.reason()
	}
	return ""
}

// streamFlow is the record of one stream, and the consumers of the group that live there besides this one.
type streamFlow struct {
	redisstream.Flow
	peers []string
}

// verdict is what a consumer decides about its group and itself, each with the fingerprint of the
// failures; empty: it goes on.
type verdict struct {
	pause string // the group is to be paused
	stop  string // this consumer is to stop itself
}

// judge decides by the records of all streams. What counts is what this consumer and its living siblings
// have settled.
func judge(flows []streamFlow, self string) (v verdict) {
	peers := map[string]bool{}
	age := time.Duration(0)
	for _, f := range flows {
		age = max(age, f.Age)
		for _, p := range f.peers {
			peers[p] = true
		}
	}
	by := map[string]*flowCount{}
	for _, f := range flows {
		f.sum(by, self, peers)
	}
	me := by[self]
	if me == nil || !me.fails() {
		return v
	}
	var all, others flowCount // others: that are not down themselves
	siblingFails := false
	for name, n := range by {
		all.addAll(n)
		if name == self {
			continue
		}
		siblingFails = siblingFails || n.fails()
		if n.down() == "" {
			others.addAll(n)
		}
	}
	siblingsWork := others.handled > 0 && !others.fails()
	switch {
	case siblingsWork, len(peers) > 0 && !siblingFails && age >= breakerHeard:
		v.stop = me.down()
	case len(peers) == 0, age >= breakerHeard:
		if print := all.down(); me.prints[print] > 0 {
			v.pause = print
		}
	}
	return v
}

// sum adds what the record says of this consumer and the peers.
func (f streamFlow) sum(by map[string]*flowCount, self string, peers map[string]bool) {
	for _, row := range f.Rows {
		if row.Consumer != self && !peers[row.Consumer] {
			continue
		}
		if by[row.Consumer] == nil {
			by[row.Consumer] = &flowCount{}
		}
		by[row.Consumer].add(row.Print, row.Events)
	}
}

// shares reports whether the stream fails for the reason for which the group is paused at others: then
// one failure is enough. Their records have ended with the pause, and this one may have come later.
func (f streamFlow) shares(print string) bool {
	var all flowCount
	for _, row := range f.Rows {
		all.add(row.Print, row.Events)
	}
	return all.fails() && all.reason() == print && (len(f.peers) == 0 || f.Age >= breakerHeard)
}

// failure is what the log is to count of a delivery that failed.
func failureOf(e *wire.Event, print string) redisstream.Failure {
	h := fnv.New64a()
	_, _ = h.Write([]byte(e.Source + "\x00" + e.ID)) // never fails
	return redisstream.Failure{Print: print, Event: strconv.FormatUint(h.Sum64(), 36)}
}

// noteReason keeps the last error of a fingerprint, for those who ask why the group is paused.
func (c *Consumer) noteReason(print string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.reasons) >= breakerReasons && c.reasons[print] == "" {
		clear(c.reasons)
	}
	c.reasons[print] = shortened(err.Error(), maxCause)
}

func (c *Consumer) reasonOf(print string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return cmp.Or(c.reasons[print], "failures with the fingerprint "+print)
}

// failsNow reports whether nothing has been handled here since a delivery failed.
func (c *Consumer) failsNow() bool { return c.failedAfter.Load() == c.handled.Load()+1 }

// follow takes part in the record of a stream, if a beat has said that there is one, and decides what is
// to be decided. It is called by the beatLoop of the stream only.
func (c *Consumer) follow(ctx context.Context, m *membership, b redisstream.Beat, peers []string) {
	handled, anew := m.handled.Swap(0), m.anew.Swap(false)
	if !m.failing {
		handled = 0 // it may be of before the record began
	}
	if !b.Failing && !m.failing {
		return
	}
	m.failing = b.Failing
	asked := time.Now()
	share := redisstream.Share{Handled: handled, Anew: anew, Sum: c.failsNow()}
	var flow redisstream.Flow
	if b.Failing {
		var err error
		if flow, err = c.log.Flow(ctx, c.self, m.stream, share); err != nil {
			m.handled.Add(handled)
			if anew {
				m.anew.Store(true)
			}
			c.noteStep(m, stepFollow, err)
			return // the next beat tells
		}
		c.noteStep(m, stepFollow, nil)
	}
	c.holdings.mu.Lock()
	m.flow = streamFlow{flow, peers}
	if older := m.pause.decidedSince(asked) || c.holdings.own.decidedSince(asked); older {
		m.flow = streamFlow{} // it is of before a decision of this consumer
	}
	c.holdings.mu.Unlock()
	if len(flow.Rows) > 0 {
		c.decide()
	}
}

// decide pauses the group, or stops this consumer, if the records ask for it.
func (c *Consumer) decide() {
	var flows []streamFlow
	var of []*membership
	paused := map[string]bool{} // the reasons
	joined := c.joined()
	c.holdings.mu.Lock()
	stopped := c.holdings.own.isPaused()
	for _, m := range joined {
		switch {
		case m.pause.isPaused() && m.pause.pause.By == PausedByBreaker:
			paused[m.pause.pause.Fingerprint] = true
		case len(m.flow.Rows) > 0 && !m.pause.isPaused():
			flows, of = append(flows, m.flow), append(of, m)
		}
	}
	c.holdings.mu.Unlock()
	if stopped || c.cfg.Policy.NeverPause {
		return
	}
	v := judge(flows, c.self.Name)
	if v.stop != "" {
		c.stop("nearly all deliveries fail here, and not those of other consumers: "+c.reasonOf(v.stop), v.stop)
		return
	}
	for i, m := range of {
		for _, row := range flows[i].Rows {
			if row.Print == v.pause || row.Consumer == c.self.Name && paused[row.Print] && flows[i].shares(row.Print) {
				c.trip(m, row.Print)
				break
			}
		}
	}
}
