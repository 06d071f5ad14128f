package group

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func pausedBy(consumer string) Pause {
	return Pause{By: PausedByBreaker, Reason: "database is away", Consumer: consumer}
}

// The pause of a group, event by event.
func TestPausing(t *testing.T) {
	t.Parallel()
	begin := time.Unix(1_800_000_000, 0)
	at := func(seconds int) time.Time { return begin.Add(time.Duration(seconds) * time.Second) }
	operator := Pause{By: PausedByOperator, Reason: "maintenance"}.Text()
	mine, theirs := pausedBy("me"), pausedBy("peer")
	mine.Since, theirs.Since = begin, begin
	vacant := mine
	vacant.Consumer = ""
	type want struct {
		paused bool
		effect pauseEffect
	}
	type step struct {
		what string
		do   func(p *pausing) pauseEffect
		want want
	}
	wrote := func(done bool, seconds int) func(p *pausing) pauseEffect {
		return func(p *pausing) pauseEffect { p.wrote(done, at(seconds)); return pauseEffect{} }
	}
	heard := func(text string, seconds int) func(p *pausing) pauseEffect {
		return func(p *pausing) pauseEffect { return p.heard(text, at(seconds)) }
	}
	tripped := func(p *pausing) pauseEffect { return p.tripped(mine, at(0)) }
	looked := func(proberLives, canTry bool, seconds int) func(p *pausing) pauseEffect {
		return func(p *pausing) pauseEffect { return p.looked(proberLives, canTry, at(seconds)) }
	}
	takes := func(seconds int) func(p *pausing) pauseEffect {
		return func(p *pausing) pauseEffect { return pauseEffect{began: p.takeProbe(at(seconds))} }
	}
	fails := func(seconds int) func(p *pausing) pauseEffect {
		return func(p *pausing) pauseEffect { return p.probed(false, at(seconds)) }
	}
	// tried is what is written when a probe has failed and the next one is that of a consumer.
	tried := func(consumer string, seconds int) string {
		p := mine
		p.Consumer, p.TriedAt = consumer, at(seconds).UTC()
		return p.Text()
	}
	began, ended := pauseEffect{began: true}, pauseEffect{ended: true}
	trips := pauseEffect{began: true, write: &pauseWrite{"", mine.Text()}}
	resumes := pauseEffect{ended: true, write: &pauseWrite{mine.Text(), ""}}
	for name, steps := range map[string][]step{
		"G02: the own breaker trips in a pause of another": {
			{"the operator pauses", heard(operator, 0), want{true, began}},
			{"handlers that still run fail", tripped, want{true, pauseEffect{}}},
			{"the operator resumes", heard("", 1), want{false, ended}},
		},
		"a decision holds against older words": {
			{"the breaker trips", tripped, want{true, trips}},
			{"a beat from before", heard("", 0), want{true, pauseEffect{}}},
			{"it is written", wrote(true, 1), want{true, pauseEffect{}}},
			{"a beat that was sent before that", heard("", 0), want{true, pauseEffect{}}},
			{"a beat after it", heard(mine.Text(), 2), want{true, pauseEffect{}}},
			{"somebody resumes", heard("", 3), want{false, ended}},
		},
		"a decision that could not be written": {
			{"the breaker trips", tripped, want{true, trips}},
			{"Redis is away", wrote(false, 1), want{true, pauseEffect{}}},
			{"the next beat says what holds", heard("", 2), want{false, ended}},
		},
		"the operator takes over from the breaker": {
			{"the breaker trips", tripped, want{true, trips}},
			{"it is written", wrote(true, 1), want{true, pauseEffect{}}},
			{"the operator pauses", heard(operator, 2), want{true, pauseEffect{}}},
			{"no probe any more", takes(100), want{true, pauseEffect{}}},
			{"a probe from before succeeds", func(p *pausing) pauseEffect { return p.probed(true, at(100)) }, want{true, pauseEffect{}}},
		},
		"probes double, and the first success resumes": {
			{"the breaker trips", tripped, want{true, trips}},
			{"it is written", wrote(true, 1), want{true, pauseEffect{}}},
			{"too early", takes(4), want{true, pauseEffect{}}},
			{"the first probe", takes(5), want{true, began}},
			{"no second one beside it", takes(60), want{true, pauseEffect{}}},
			{"it fails", fails(6), want{true, pauseEffect{}}},
			{"6 s are not over", takes(11), want{true, pauseEffect{}}},
			{"the second probe", takes(12), want{true, began}},
			{"it fails", fails(70), want{true, pauseEffect{}}},
			{"a minute is not over", takes(129), want{true, pauseEffect{}}},
			{"the third probe", takes(130), want{true, began}},
			{"it succeeds", func(p *pausing) pauseEffect { return p.probed(true, at(131)) }, want{false, pauseEffect{ended: true, write: &pauseWrite{mine.Text(), ""}}}},
			{"it is written", wrote(true, 132), want{false, pauseEffect{}}},
		},
		"G09: whoever has failed leaves the next probe to another": {
			{"the breaker trips", tripped, want{true, trips}},
			{"it is written", wrote(true, 1), want{true, pauseEffect{}}},
			{"the first probe", takes(5), want{true, began}},
			{"it fails", fails(6), want{true, pauseEffect{}}},
			{"it is left", (*pausing).leaveProbes, want{true, pauseEffect{write: &pauseWrite{mine.Text(), tried("", 6)}}}},
			{"it is written", wrote(true, 7), want{true, pauseEffect{}}},
			{"nobody makes the probes", looked(false, true, 7), want{true, pauseEffect{}}},
			{"others have the time to take them", looked(false, true, 11), want{true, pauseEffect{}}},
			{"a peer does", heard(tried("peer", 6), 11), want{true, pauseEffect{}}},
			{"it fails as well", heard(tried("", 13), 14), want{true, pauseEffect{}}},
			{"this one's turn, at once", looked(false, true, 15), want{true, pauseEffect{write: &pauseWrite{tried("", 13), tried("me", 13)}}}},
			{"it is written", wrote(true, 16), want{true, pauseEffect{}}},
			{"13 s after the last one", takes(25), want{true, pauseEffect{}}},
			{"it is time", takes(26), want{true, began}},
		},
		"G09: there is no other": {
			{"the breaker trips", tripped, want{true, trips}},
			{"it is written", wrote(true, 1), want{true, pauseEffect{}}},
			{"the first probe", takes(5), want{true, began}},
			{"it fails", fails(6), want{true, pauseEffect{}}},
			{"it is left", (*pausing).leaveProbes, want{true, pauseEffect{write: &pauseWrite{mine.Text(), tried("", 6)}}}},
			{"it is written", wrote(true, 7), want{true, pauseEffect{}}},
			{"nobody makes the probes", looked(false, true, 7), want{true, pauseEffect{}}},
			{"nobody has taken them", looked(false, true, 12), want{true, pauseEffect{write: &pauseWrite{tried("", 6), tried("me", 6)}}}},
			{"it is written", wrote(true, 12), want{true, pauseEffect{}}},
			{"it is time", takes(12), want{true, began}},
		},
		"a clock that is ahead by a day": {
			{"the breaker trips", tripped, want{true, trips}},
			{"it is written", wrote(true, 1), want{true, pauseEffect{}}},
			{"a peer has tried one", heard(tried("me", 86400), 10), want{true, pauseEffect{}}},
			{"a minute is not over", takes(69), want{true, pauseEffect{}}},
			{"it is", takes(70), want{true, began}},
		},
		"G03: a probe that is lost is made again at once": {
			{"the breaker trips", tripped, want{true, trips}},
			{"it is written", wrote(true, 1), want{true, pauseEffect{}}},
			{"the first probe", takes(5), want{true, began}},
			{"it is taken away", func(p *pausing) pauseEffect { p.probeLost(at(6)); return pauseEffect{} }, want{true, pauseEffect{}}},
			{"again", takes(6), want{true, began}},
		},
		"G03: probes are inherited": {
			{"a peer pauses", heard(theirs.Text(), 0), want{true, began}},
			{"the peer lives", looked(true, true, 1), want{true, pauseEffect{}}},
			{"the peer is gone", looked(false, true, 1), want{true, pauseEffect{write: &pauseWrite{theirs.Text(), mine.Text()}}}},
			{"once", looked(false, true, 1), want{true, pauseEffect{}}},
			{"it is written", wrote(true, 1), want{true, pauseEffect{}}},
			{"the first probe", takes(6), want{true, began}},
		},
		"G09: the prober stops itself": {
			{"the breaker trips", tripped, want{true, trips}},
			{"it is written", wrote(true, 1), want{true, pauseEffect{}}},
			{"this one stops itself", (*pausing).leaveProbes, want{true, pauseEffect{write: &pauseWrite{mine.Text(), vacant.Text()}}}},
			{"once", (*pausing).leaveProbes, want{true, pauseEffect{}}},
			{"it is written", wrote(true, 2), want{true, pauseEffect{}}},
			{"no probe any more", takes(100), want{true, pauseEffect{}}},
			{"nothing to give up", (*pausing).leaveProbes, want{true, pauseEffect{}}},
			{"a peer inherits", heard(theirs.Text(), 3), want{true, pauseEffect{}}},
		},
		"G09: a stop that only this consumer knows of": {
			{"it fails alone", tripped, want{true, trips}},
			{"that is written nowhere", wrote(true, 0), want{true, pauseEffect{}}},
			{"once", tripped, want{true, pauseEffect{}}},
			{"too early", takes(4), want{true, pauseEffect{}}},
			{"the first trial", takes(5), want{true, began}},
			{"it fails", fails(5), want{true, pauseEffect{}}},
			{"5 s are not over", takes(9), want{true, pauseEffect{}}},
			{"the second trial", takes(10), want{true, began}},
			{"it succeeds", func(p *pausing) pauseEffect { return p.probed(true, at(16)) }, want{false, pauseEffect{ended: true, write: &pauseWrite{mine.Text(), ""}}}},
			{"that is written nowhere", wrote(true, 16), want{false, pauseEffect{}}},
			{"it fails alone again", tripped, want{true, trips}},
		},
		"a prober that has nothing to try": {
			{"the breaker trips", tripped, want{true, trips}},
			{"it is written", wrote(true, 1), want{true, pauseEffect{}}},
			{"it is not time yet", looked(false, false, 14), want{true, pauseEffect{}}},
			{"it has something", looked(false, true, 15), want{true, pauseEffect{}}},
			{"it has had nothing for 10 s", looked(false, false, 15), want{true, pauseEffect{write: &pauseWrite{mine.Text(), vacant.Text()}}}},
			{"it is written", wrote(true, 16), want{true, pauseEffect{}}},
			{"no probe any more", takes(17), want{true, pauseEffect{}}},
			{"it leaves them to others", looked(false, false, 17), want{true, pauseEffect{}}},
			{"for 2.5 s", looked(false, false, 19), want{true, pauseEffect{}}},
			{"nobody has taken them", looked(false, false, 20), want{true, pauseEffect{write: &pauseWrite{vacant.Text(), mine.Text()}}}},
		},
		"G09: a probe that hangs is left to another": {
			{"the breaker trips", tripped, want{true, trips}},
			{"it is written", wrote(true, 1), want{true, pauseEffect{}}},
			{"the first probe", takes(5), want{true, began}},
			{"it runs", looked(false, true, 64), want{true, pauseEffect{}}},
			{"for a minute", looked(false, true, 65), want{true, pauseEffect{write: &pauseWrite{mine.Text(), vacant.Text()}}}},
			{"it is written", wrote(true, 66), want{true, pauseEffect{}}},
			{"it runs still", looked(false, true, 100), want{true, pauseEffect{}}},
			{"and succeeds", func(p *pausing) pauseEffect { return p.probed(true, at(101)) }, want{false, pauseEffect{ended: true, write: &pauseWrite{vacant.Text(), ""}}}},
		},
		"a prober whose probe takes long": {
			{"the breaker trips", tripped, want{true, trips}},
			{"it is written", wrote(true, 1), want{true, pauseEffect{}}},
			{"the first probe", takes(5), want{true, began}},
			{"nothing else is here", looked(false, false, 60), want{true, pauseEffect{}}},
			{"it succeeds", func(p *pausing) pauseEffect { return p.probed(true, at(61)) }, want{false, resumes}},
		},
		"one that has nothing to try inherits last": {
			{"a peer pauses", heard(theirs.Text(), 0), want{true, began}},
			{"the peer is gone", looked(false, false, 1), want{true, pauseEffect{}}},
			{"it was only slow", looked(true, false, 3), want{true, pauseEffect{}}},
			{"it is gone", looked(false, false, 5), want{true, pauseEffect{}}},
			{"others may have something", looked(false, false, 7), want{true, pauseEffect{}}},
			{"nobody has taken them", looked(false, false, 8), want{true, pauseEffect{write: &pauseWrite{theirs.Text(), mine.Text()}}}},
		},
		"another one inherits": {
			{"a peer pauses", heard(theirs.Text(), 0), want{true, began}},
			{"the peer is gone", looked(false, true, 1), want{true, pauseEffect{write: &pauseWrite{theirs.Text(), mine.Text()}}}},
			{"another one was faster", wrote(false, 1), want{true, pauseEffect{}}},
			{"no probe", takes(100), want{true, pauseEffect{}}},
		},
	} {
		p := pausing{self: "me"}
		for _, s := range steps {
			e := s.do(&p)
			if e.began != s.want.effect.began || e.ended != s.want.effect.ended || p.isPaused() != s.want.paused {
				t.Errorf("%s: %s: effect %+v, paused %v; want %+v", name, s.what, e, p.isPaused(), s.want)
			}
			switch w := s.want.effect.write; {
			case (e.write == nil) != (w == nil):
				t.Errorf("%s: %s: writes %v, want %v", name, s.what, e.write, w)
			case w != nil && (e.write.seen != w.seen || e.write.text != w.text):
				t.Errorf("%s: %s: writes %+v, want %+v", name, s.what, *e.write, *w)
			}
		}
	}
}

// Whatever has happened: when all decisions are written and words from the log are heard, what is said
// there holds; and the one who makes the probes makes them.
func TestPausingEndsWithWhatIsWritten(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1_800_000_000, 0)
		log := "" // what is written
		texts := []string{"", Pause{By: PausedByOperator}.Text(), pausedBy("me").Text(), pausedBy("peer").Text()}
		p := pausing{self: "me"}
		var writes []pauseWrite
		take := func(e pauseEffect) {
			if e.write != nil {
				writes = append(writes, *e.write)
			}
			if e.began && e.ended {
				t.Fatalf("it begins and ends at once")
			}
		}
		write := func(*rapid.T) {
			if len(writes) == 0 {
				return
			}
			done := writes[0].seen == log
			if done {
				log = writes[0].text
			}
			writes = writes[1:]
			p.wrote(done, now)
		}
		t.Repeat(map[string]func(*rapid.T){
			"time passes":     func(t *rapid.T) { now = now.Add(time.Duration(rapid.IntRange(1, 70).Draw(t, "s")) * time.Second) },
			"others write":    func(t *rapid.T) { log = rapid.SampledFrom(texts).Draw(t, "text") },
			"a beat":          func(*rapid.T) { take(p.heard(log, now)) },
			"an old beat":     func(t *rapid.T) { take(p.heard(rapid.SampledFrom(texts).Draw(t, "text"), now)) },
			"it trips":        func(*rapid.T) { take(p.tripped(pausedBy("me"), now)) },
			"a write ends":    write,
			"a probe begins":  func(*rapid.T) { p.takeProbe(now) },
			"a probe is lost": func(*rapid.T) { p.probeLost(now) },
			"a probe ends":    func(t *rapid.T) { take(p.probed(rapid.Bool().Draw(t, "succeeded"), now)) },
			"a probe is left": func(*rapid.T) { take(p.leaveProbes()) },
			"it looks": func(t *rapid.T) {
				take(p.looked(rapid.Bool().Draw(t, "lives"), rapid.Bool().Draw(t, "can try"), now))
			},
			"": func(t *rapid.T) {
				if len(writes) > 1 {
					t.Fatalf("%d decisions are being written", len(writes))
				}
			},
		})
		write(t)
		now = now.Add(time.Second)
		take(p.heard(log, now))
		if p.text != log {
			t.Fatalf("it is %q, and %q is written", p.text, log)
		}
		p.probeLost(now)
		written := ParsePause(log)
		if prober := written != nil && written.By == PausedByBreaker && written.Consumer == "me"; p.mayProbe(now.Add(probeMost)) != prober {
			t.Fatalf("it makes probes: %v, want %v", !prober, prober)
		}
	})
}

// sibling is one of some consumers of a paused group, as far as the probes are concerned.
type sibling struct {
	pausing
	phase  time.Duration // of its beats
	canTry bool          // it has deliveries that it could try
	gone   bool
}

// Whatever has happened: if some consumers can try a delivery, they do so in the end, and where there are
// two, none does twice in turn; and if none can, there is one that reads, time and again.
func TestG09ProbesGoToWhoeverCanTry(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		begin := time.Unix(1_800_000_000, 0)
		now := begin
		log := pausedBy("prober of old").Text()
		all := make([]*sibling, rapid.IntRange(2, 4).Draw(t, "consumers"))
		for i := range all {
			all[i] = &sibling{phase: time.Duration(rapid.IntRange(0, 19).Draw(t, "phase")) * beatEvery / 20}
			all[i].self = fmt.Sprint(i)
		}
		isThere := func(name string) bool {
			return slices.ContainsFunc(all, func(s *sibling) bool { return s.self == name && !s.gone })
		}
		write := func(s *sibling, e pauseEffect) {
			if e.write == nil {
				return
			}
			done := e.write.seen == log
			if done {
				log = e.write.text
			}
			s.wrote(done, now)
		}
		var tried []*sibling // those who have made the probes, in turn
		beat := func(s *sibling) {
			s.heard(log, now)
			write(s, s.looked(isThere(s.pause.Consumer), s.canTry, now))
			if s.canTry && s.takeProbe(now) {
				tried = append(tried, s)
				s.probed(false, now)
				write(s, s.leaveProbes())
			}
		}
		// pass lets time pass, and calls each after each beat.
		pass := func(d time.Duration, each func(*sibling)) {
			for end := now.Add(d); now.Before(end); now = now.Add(beatEvery / 20) {
				for _, s := range all {
					if !s.gone && now.Sub(begin)%beatEvery == s.phase {
						beat(s)
						each(s)
					}
				}
			}
		}
		some := func(t *rapid.T) *sibling { return all[rapid.IntRange(0, len(all)-1).Draw(t, "which")] }
		t.Repeat(map[string]func(*rapid.T){
			"time passes": func(t *rapid.T) {
				pass(time.Duration(rapid.IntRange(1, 70).Draw(t, "s"))*time.Second, func(*sibling) {})
			},
			"it has something": func(t *rapid.T) { some(t).canTry = true },
			"it has nothing":   func(t *rapid.T) { some(t).canTry = false },
			"it goes or comes": func(t *rapid.T) { s := some(t); s.gone = !s.gone },
		})
		all[0].gone = false // somebody is there
		pass(probeMost+2*proberIdle, func(*sibling) {})

		canTry := 0
		for _, s := range all {
			if s.canTry && !s.gone {
				canTry++
			}
		}
		const most = probeMost + proberIdle + 3*vacantFor + 6*beatEvery // between two probes
		tried = nil
		read := now // when one that had nothing was last allowed to read
		pass(3*most, func(s *sibling) {
			if s.mayProbe(now) {
				read = now
			}
			if canTry == 0 && now.Sub(read) > probeMost+vacantFor+4*beatEvery {
				t.Fatalf("nobody has read for %v", now.Sub(read))
			}
		})
		if canTry > 0 && len(tried) < 2 {
			t.Fatalf("%d probes in %v", len(tried), 3*most)
		}
		for i := 1; i < len(tried); i++ {
			if canTry > 1 && tried[i] == tried[i-1] {
				t.Fatalf("%s has made two probes in turn", tried[i].self)
			}
		}
	})
}
