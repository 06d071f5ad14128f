package group

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// holdingsModel drives the holdings of one consumer as its loops do, in any order, and knows what the
// log would say.
type holdingsModel struct {
	t       *rapid.T
	w       holdings
	now     time.Time
	streams []*membership
	next    uint64 // ID of the next entry

	all     []*Holding          // every holding that there was
	events  map[string]*modeled // by event ID
	handed  []*Holding          // with the router
	running []*Holding
	raising []*Holding
	acking  []*Holding
	peers   []redisstream.Delivered // what others hold
	passing map[*membership]bool    // passOnLoop is at work
}

// modeled is an event, and where its entry stands.
type modeled struct {
	subject string
	ref     redisstream.Ref
	logged  bool // the entry is in the log, and nobody has it
	done    bool // it was handled, and that is in the log
	other   bool // nobody handles its type here
	ran     int  // how often a handler ran to its end that had not lost it
}

func newHoldingsModel(t *rapid.T) *holdingsModel {
	m := &holdingsModel{t: t, now: time.Unix(1_800_000_000, 0), events: map[string]*modeled{}, passing: map[*membership]bool{}}
	m.w.init(rapid.IntRange(1, 4).Draw(t, "size"), rapid.Bool().Draw(t, "per subject"), nobody{}.New)
	for _, s := range []string{"a", "b"} {
		of := &membership{stream: s}
		of.pause.self, m.w.own.self = "me", "me"
		of.fresh.Store(1<<63 - 1)
		m.streams = append(m.streams, of)
	}
	return m
}

func (m *holdingsModel) stream() *membership {
	return m.streams[rapid.IntRange(0, len(m.streams)-1).Draw(m.t, "stream")]
}

func (m *holdingsModel) id() redisstream.ID { m.next++; return redisstream.ID{MS: m.next} }

// publish adds new events to the log.
func (m *holdingsModel) publish(*rapid.T) {
	of := m.stream()
	for range rapid.IntRange(1, 5).Draw(m.t, "events") {
		ref := redisstream.Ref{Stream: of.stream, ID: m.id()}
		m.events[fmt.Sprint(ref.ID.MS)] = &modeled{
			ref: ref, logged: true, subject: rapid.SampledFrom([]string{"", "x", "y"}).Draw(m.t, "subject"),
			other: rapid.IntRange(0, 3).Draw(m.t, "handled") == 0,
		}
	}
}

// read takes what is in the log, in its order.
func (m *holdingsModel) read(*rapid.T) {
	var read []redisstream.Delivered
	for ms := uint64(1); ms <= m.next; ms++ {
		for id, e := range m.events {
			if e.ref.ID.MS == ms && e.logged && !e.done {
				e.logged = false
				read = append(read, redisstream.Delivered{Ref: e.ref, Entry: redisstream.Entry{ID: redisstream.ID{MS: numberOf(id)}}})
			}
		}
	}
	m.arrive(read, false)
}

func numberOf(id string) (n uint64) { _, _ = fmt.Sscan(id, &n); return n }

func (m *holdingsModel) arrive(read []redisstream.Delivered, taken bool) {
	fresh := m.w.hold(nil, read)
	m.all = append(m.all, fresh...)
	m.w.arrive(fresh, taken)
}

// deliver does a step of deliverLoop.
func (m *holdingsModel) deliver(*rapid.T) {
	out, raise, back := m.w.next(m.now)
	m.handed, m.raising = append(m.handed, out...), append(m.raising, raise...)
	m.handBack(back)
	read := m.w.nextArrival()
	for _, h := range read {
		h.of = m.streams[0]
		if h.ref.Stream == "b" {
			h.of = m.streams[1]
		}
		h.Event.ID = fmt.Sprint(h.entry.ID.MS)
		h.Event.Subject = m.events[h.Event.ID].subject
		h.suspect = h.delivered > 0
		h.Crashes = max(0, h.delivered-1)
	}
	read = slices.DeleteFunc(read, func(h *Holding) bool {
		if !m.events[h.Event.ID].other {
			return false
		}
		if m.w.leaveToOthers(h.of, []other{{h: h}}) == m.passing[h.of] {
			m.t.Fatalf("passOnLoop is at work: %v; there must be one, and one only", m.passing[h.of])
		}
		m.passing[h.of] = true
		return true
	})
	for _, off := range m.w.enqueue(read, m.now) {
		if off.delay <= 0 {
			m.t.Fatalf("%s is put off for %v", off.h.Event.ID, off.delay)
		}
		m.again(off.h)
		m.acking = append(m.acking, m.w.report(off.h)...)
	}
	if len(m.handed)+len(m.running)+len(m.raising) > m.w.size {
		m.t.Fatalf("%d are handed out, %d run, %d are raised, with %d places", len(m.handed), len(m.running), len(m.raising), m.w.size)
	}
}

// passOn does a step of passOnLoop, which may settle some of the first of what it finds.
func (m *holdingsModel) passOn(*rapid.T) {
	if of := m.stream(); m.passing[of] {
		others := m.w.othersOf(of)
		m.passing[of] = len(others) > 0
		m.passed(others[:rapid.IntRange(0, len(others)).Draw(m.t, "others")])
	}
}

func (m *holdingsModel) passed(others []other) {
	for _, o := range others {
		m.w.settled(o.h)
		m.events[o.h.Event.ID].done = true
	}
}

// handBack puts what this consumer may not begin into the log again.
func (m *holdingsModel) handBack(back []*Holding) {
	for _, h := range back {
		if h.state != heldEnded {
			m.t.Fatalf("%s is handed back in state %d", h.Event.ID, h.state)
		}
		m.again(h)
		m.acking = append(m.acking, h)
	}
}

// stop is a consumer that stops itself, or goes on trying.
func (m *holdingsModel) stop(*rapid.T) {
	back, _ := m.w.stop(pausedBy("me"), m.now)
	m.handBack(back)
	m.raising = still(heldPlaced, m.raising)
}

// again puts another entry with the event into the log, as a retry does.
func (m *holdingsModel) again(h *Holding) {
	e := m.events[h.Event.ID]
	e.ref, e.logged = redisstream.Ref{Stream: h.ref.Stream, Lane: true, ID: m.id()}, true
}

// pick takes one out of a list; nil where it is empty.
func (m *holdingsModel) pick(from *[]*Holding) *Holding {
	if len(*from) == 0 {
		return nil
	}
	i := rapid.IntRange(0, len(*from)-1).Draw(m.t, "which")
	h := (*from)[i]
	*from = append((*from)[:i:i], (*from)[i+1:]...)
	return h
}

func (m *holdingsModel) raised(*rapid.T) {
	h := m.pick(&m.raising)
	if h == nil {
		return
	}
	if rapid.Bool().Draw(m.t, "answered") {
		m.w.clear([]*Holding{h})
	} else {
		m.w.setAside([]*Holding{h})
	}
}

func (m *holdingsModel) begin(*rapid.T) {
	h := m.pick(&m.handed)
	if h == nil {
		return
	}
	if !m.w.begin(h, m.now) {
		if again := m.w.held[h.ref]; again != nil && !slices.Contains(m.all, again) {
			m.all = append(m.all, again)
		}
		m.w.finish(h, heldEnded, 0)
		return
	}
	if e := m.events[h.Event.ID]; e.done || e.other {
		m.t.Fatalf("%s runs, and is done or not handled here: %+v", h.Event.ID, e)
	}
	if m.w.own.isPaused() && !h.trial.Load() && !h.probe.Load() {
		m.t.Fatalf("%s begins, and the consumer has stopped itself", h.Event.ID)
	}
	for _, other := range m.running {
		switch {
		case other.state == heldLost:
		case other.ref == h.ref:
			m.t.Fatalf("%s runs twice", h.Event.ID)
		case m.w.perSubject && h.Event.Subject != "" && other.subject() == h.subject():
			m.t.Fatalf("%s and %s of one subject run", h.Event.ID, other.Event.ID)
		case h.isDangerous() && other.isDangerous():
			m.t.Fatalf("%s and %s run, and both may kill", h.Event.ID, other.Event.ID)
		}
	}
	m.running = append(m.running, h)
}

func (m *holdingsModel) end(*rapid.T) {
	if h := m.pick(&m.running); h != nil {
		result := rapid.IntRange(0, 3).Draw(m.t, "result")
		m.endOf(h, result == 0, result == 1)
	}
}

func (m *holdingsModel) endOf(h *Holding, failed, faulty bool) {
	failed = failed || faulty
	m.w.tried(h, !failed, m.now)
	if h.probe.Swap(false) {
		if e := h.of.pause.probed(!failed, m.now); e.ended {
			m.w.resume(h.of)
			h.of.pause.wrote(true, m.now)
		}
	}
	hold := time.Duration(0)
	if failed {
		hold = time.Second
	}
	if faulty { // it could not be run here
		m.stop(nil)
		hold = untilLogged
	}
	if m.w.finish(h, heldEnded, hold) {
		return
	}
	e := m.events[h.Event.ID]
	if failed {
		m.again(h)
	} else if e.ran++; e.ran > 1 {
		m.t.Fatalf("%s was handled twice", h.Event.ID)
	}
	m.acking = append(m.acking, h)
}

func (m *holdingsModel) acked(*rapid.T) {
	if h := m.pick(&m.acking); h != nil {
		m.ackedOf(h)
	}
}

func (m *holdingsModel) ackedOf(h *Holding) {
	m.w.settled(h)
	e := m.events[h.Event.ID]
	e.done = e.ran > 0
}

// lose gives an entry to a peer; what has its result on the way is ours, for the log has decided that.
func (m *holdingsModel) lose(*rapid.T) {
	var held []*Holding
	for _, h := range m.all {
		if m.w.held[h.ref] == h && h.state != heldEnded && h.of != nil {
			held = append(held, h)
		}
	}
	h := m.pick(&held)
	if h == nil {
		return
	}
	m.peers = append(m.peers, redisstream.Delivered{Ref: h.ref, Claimed: true, Count: rapid.IntRange(0, 3).Draw(m.t, "count"), Entry: redisstream.Entry{ID: redisstream.ID{MS: numberOf(h.Event.ID)}}})
	m.w.lose(h.ref)
	m.raising = still(heldPlaced, m.raising)
}

// giveBack is a peer that dies or leaves.
func (m *holdingsModel) giveBack(*rapid.T) {
	m.arrive(m.peers, true)
	m.peers = nil
}

func (m *holdingsModel) pause(*rapid.T) {
	of := m.stream()
	text := rapid.SampledFrom([]string{"", Pause{By: PausedByOperator}.Text(), pausedBy("me").Text()}).Draw(m.t, "pause")
	if e := of.pause.heard(text, m.now); e.ended {
		m.w.resume(of)
	}
}

func (m *holdingsModel) stale(*rapid.T) { m.stream().fresh.Store(1) }

func (m *holdingsModel) beat(*rapid.T) {
	of := m.stream()
	of.fresh.Store(1<<63 - 1)
	m.w.freshen(of)
	m.w.tryParked(of, m.now)
	m.w.releaseSubjects(m.now)
}

// check compares the counters with the holdings.
func (m *holdingsModel) check(*rapid.T) {
	var count [holdingStates]int
	for _, h := range m.all {
		count[h.state]++
	}
	count[heldGone] = m.w.count[heldGone]
	if count != m.w.count {
		m.t.Fatalf("counters %v, want %v", m.w.count, count)
	}
	// What is not handled here takes no room.
	besides := len(m.w.held) - count[heldOthers]
	if room := m.w.room(); !m.w.own.isPaused() && room < m.w.size-besides {
		m.t.Fatalf("room %d of %d with %d held besides %d others", room, m.w.size, besides, count[heldOthers])
	}
}

// Whatever stalls, pauses, take-overs and give-backs there are, in any order: nothing runs twice at
// once, nothing runs that is done, places are kept; and when all is calm again nothing waits for ever.
func TestHoldingsRunOnceAndNobodyWaitsForEver(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := newHoldingsModel(t)
		actions := map[string]func(*rapid.T){
			"publish": m.publish, "read": m.read, "deliver": m.deliver, "deliver more": m.deliver, "raised": m.raised,
			"begin": m.begin, "begin more": m.begin, "end": m.end, "acked": m.acked, "lose": m.lose, "give back": m.giveBack,
			"pause": m.pause, "stop": m.stop, "pass on": m.passOn, "stale": m.stale, "beat": m.beat,
			"time": func(*rapid.T) { m.now = m.now.Add(2 * time.Second) },
			"":     m.check,
		}
		for range 4 { // each has about 30 steps: what goes wrong may take more
			t.Repeat(actions)
		}
		for _, of := range m.streams {
			if of.pause.heard("", m.now.Add(time.Hour)); !of.pause.isPaused() {
				m.w.resume(of)
			}
		}
		m.w.own.end()
		for range 20 * (len(m.events) + len(m.all) + 10) {
			m.now = m.now.Add(time.Second)
			for _, of := range m.streams {
				of.fresh.Store(1<<63 - 1)
				m.w.freshen(of)
			}
			m.w.releaseSubjects(time.Now().Add(time.Hour))
			m.giveBack(t)
			m.read(t)
			m.deliver(t)
			m.w.clear(m.raising)
			m.raising = nil
			for len(m.handed) > 0 {
				m.begin(t)
			}
			for _, h := range m.running {
				m.endOf(h, false, false)
			}
			for _, h := range m.acking {
				m.ackedOf(h)
			}
			for _, of := range m.streams {
				if m.passing[of] {
					m.passed(m.w.othersOf(of))
					m.passing[of] = len(m.w.othersOf(of)) > 0
				}
			}
			m.running, m.acking = nil, nil
		}
		m.check(t)
		for id, e := range m.events {
			if !e.done {
				t.Fatalf("%s waits for ever: %+v; held: %v, subjects %v", id, e, m.w.held, m.w.subjects)
			}
		}
		if len(m.w.held) > 0 || len(m.w.subjects) > 0 || m.w.placed() > 0 {
			t.Fatalf("left: held %v, subjects %v, %d places", m.w.held, m.w.subjects, m.w.placed())
		}
	})
}
