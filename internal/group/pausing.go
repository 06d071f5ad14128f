package group

import "time"

// pausing is what one consumer knows and decides about the pause of its group at one stream. It is a
// pure state machine: an event changes it and says what is to be done.
//
//	runs ──heard, tripped──► paused ──heard, probe succeeded──► runs
//
// The consumer that is named in a pause by the breaker, the prober, tries one delivery from time to time,
// the probe. A pause that names none, or one that is gone, is vacant, and another consumer takes it on.
// After a probe that fails the prober leaves the next one to another: what was away for all may be away
// for this consumer alone by now, which no other would find out.
// What this consumer decides counts at once, and until it is written in the log, words from there are
// older than the decision.
type pausing struct {
	self    string    // the name of this consumer
	text    string    // as it is written; empty: the group is not paused
	pause   Pause     // what the text says
	probeAt time.Time // of the next probe, where this consumer makes it; zero: it does not
	probing bool      // a probe is under way
	begun   time.Time // when it began
	writing string    // "": nothing; else a decision is being written
	inherit Pause     // the decision, where it is to make the probes from now on
	written time.Time // when a decision was written last
	vacant  time.Time // since when nobody is known to make the probes; zero: somebody makes them
	left    bool      // they are vacant since this consumer has left them to others
}

const (
	// A paused group tries one delivery after probeFirst, and then after as long as it was paused when it
	// tried the last one, at most probeMost: after 5, 10, 20, 40, 80, 140 s.
	probeFirst = 5 * time.Second
	probeMost  = time.Minute
	// proberIdle is how long a prober has nothing to try, when it is time, before it gives the probes
	// up: what fails may be of types that others handle, and it would wait for its own for ever.
	proberIdle = 5 * beatEvery
	// vacantFor is how long a consumer that has nothing to try leaves vacant probes to those that have
	// something: they hear of it with their next beat. One that has left the probes to others leaves them
	// for twice as long.
	vacantFor = beatEvery + 500*time.Millisecond
)

// pauseWrite is a change of what is written about a pause, if it is still what was seen.
type pauseWrite struct{ seen, text string }

// pauseEffect is what an event asks for.
type pauseEffect struct {
	began bool        // the group is paused now, and was not before
	ended bool        // it goes on
	write *pauseWrite // to be written; then call wrote
}

// The decisions that are written.
const (
	writingPause   = "pause"
	writingResume  = "resume"
	writingInherit = "inherit"
)

// isPaused reports whether deliveries may not begin.
func (p *pausing) isPaused() bool { return p.text != "" }

// heard takes what is written about the pause, as an answer says that was asked for at the given time.
func (p *pausing) heard(text string, asked time.Time) (e pauseEffect) {
	if p.decidedSince(asked) || text == p.text {
		return e
	}
	e.began, e.ended = p.text == "", text == ""
	if text == "" {
		p.end()
		return e
	}
	p.text, p.pause = text, *ParsePause(text)
	p.plan(asked)
	return e
}

// plan looks who is to make the probes, and where it is this consumer, when to make the next one.
func (p *pausing) plan(now time.Time) {
	p.probeAt, p.vacant = time.Time{}, time.Time{}
	p.left = p.left && p.pause.Consumer == ""
	if !p.isProber() {
		return
	}
	p.probeAt = now.Add(probeFirst)
	if tried := p.pause.TriedAt; !tried.IsZero() {
		next := tried.Add(min(max(tried.Sub(p.pause.Since), probeFirst), probeMost))
		p.probeAt = now.Add(min(max(next.Sub(now), 0), probeMost)) // the clock that says it may be another one
	}
}

func (p *pausing) isProber() bool {
	return p.pause.By == PausedByBreaker && p.pause.Consumer == p.self
}

// decidedSince reports whether what was asked for at the given time may be older than a decision of this
// consumer.
func (p *pausing) decidedSince(asked time.Time) bool {
	return p.writing != "" || asked.Before(p.written)
}

// end forgets the pause.
func (p *pausing) end() {
	*p = pausing{self: p.self, writing: p.writing, written: p.written}
}

// tripped says that this consumer's breaker asks for a pause. A group that is paused stays so.
func (p *pausing) tripped(pause Pause, now time.Time) (e pauseEffect) {
	if p.isPaused() || p.writing != "" {
		return e
	}
	p.text, p.pause = pause.Text(), pause
	p.plan(now)
	p.writing = writingPause
	return pauseEffect{began: true, write: &pauseWrite{"", p.text}}
}

// mayProbe reports whether it is time for a probe of this consumer.
func (p *pausing) mayProbe(now time.Time) bool {
	return p.isPaused() && !p.probeAt.IsZero() && !p.probing && !now.Before(p.probeAt)
}

// takeProbe begins a probe, where it is time for one.
func (p *pausing) takeProbe(now time.Time) bool {
	if !p.mayProbe(now) {
		return false
	}
	p.probing, p.begun = true, now
	return true
}

// probeLost ends a probe without a result: it is made again at once.
func (p *pausing) probeLost(now time.Time) {
	p.probing = false
	if !p.probeAt.IsZero() {
		p.probeAt = now
	}
}

// probed takes the result of a probe. One that succeeded ends the pause, whoever is to make the probes
// by now.
func (p *pausing) probed(succeeded bool, now time.Time) (e pauseEffect) {
	p.probing = false
	if !p.isPaused() || p.pause.By != PausedByBreaker {
		return e
	}
	if succeeded && p.writing == "" {
		e = pauseEffect{ended: true, write: &pauseWrite{p.text, ""}}
		p.end()
		p.writing = writingResume
		return e
	}
	p.pause.TriedAt = now.UTC()
	p.plan(now)
	return e
}

// looked says at a beat whether the consumer that makes the probes lives, and whether this one has a
// delivery that it could try, or nobody besides it. A prober that has had none for a while gives the
// probes up. Vacant ones go at once to a consumer that has one. If there is no such consumer, any takes
// them after a while: the prober alone reads a paused stream, and so finds what others could try.
func (p *pausing) looked(proberLives, canTry bool, now time.Time) (e pauseEffect) {
	switch {
	case p.pause.By != PausedByBreaker, p.writing != "":
		return e
	case p.isProber() && p.probing && now.Sub(p.begun) >= probeMost: // it hangs, perhaps here alone
		return p.leaveProbes()
	case p.isProber():
		if canTry || !p.mayProbe(now) || now.Sub(p.probeAt) < proberIdle {
			return e
		}
		return p.appoint("")
	case proberLives:
		p.vacant = time.Time{}
		return e
	}
	if p.probing { // the one that hangs
		return e
	}
	if p.vacant.IsZero() {
		p.vacant = now
	}
	leave := time.Duration(0)
	switch {
	case p.left:
		leave = 2 * vacantFor
	case !canTry:
		leave = vacantFor
	}
	if now.Sub(p.vacant) < leave {
		return e
	}
	return p.appoint(p.self)
}

// leaveProbes says that this consumer is not to make the next probe: another one inherits it.
func (p *pausing) leaveProbes() (e pauseEffect) {
	if !p.isProber() || p.writing != "" {
		return e
	}
	p.left = true
	return p.appoint("")
}

// appoint has it written who makes the probes.
func (p *pausing) appoint(consumer string) pauseEffect {
	p.inherit = p.pause
	p.inherit.Consumer = consumer
	p.writing = writingInherit
	return pauseEffect{write: &pauseWrite{p.text, p.inherit.Text()}}
}

// wrote says that the decision is written, or is not: then the next word says what holds.
func (p *pausing) wrote(done bool, now time.Time) {
	if p.writing == writingInherit && done {
		p.pause, p.text = p.inherit, p.inherit.Text()
		p.plan(now)
	}
	p.writing, p.written = "", now
}
