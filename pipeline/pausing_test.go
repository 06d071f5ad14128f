package pipeline

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
	operator := Pause{By: PausedByOperator, Reason: "maintenance"}.text()
	mine, theirs := pausedBy("me"), pausedBy("peer")
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
	began, ended := pauseEffect{began: true}, pauseEffect{ended: true}
	trips := pauseEffect{began: true, write: &pauseWrite{"", mine.text()}}
	resumes := pauseEffect{ended: true, write: &pauseWrite{mine.text(), ""}}
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
			{"a beat after it", heard(mine.text(), 2), want{true, pauseEffect{}}},
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
			{"no probe any more", func(p *pausing) pauseEffect { return pauseEffect{began: p.takeProbe(at(100))} }, want{true, pauseEffect{}}},
			{"a probe from before succeeds", func(p *pausing) pauseEffect { return p.probed(true, at(100)) }, want{true, pauseEffect{}}},
		},
		"probes double, and the first success resumes": {
			{"the breaker trips", tripped, want{true, trips}},
			{"it is written", wrote(true, 1), want{true, pauseEffect{}}},
			{"too early", func(p *pausing) pauseEffect { return pauseEffect{began: p.takeProbe(at(4))} }, want{true, pauseEffect{}}},
			{"the first probe", func(p *pausing) pauseEffect { return pauseEffect{began: p.takeProbe(at(5))} }, want{true, began}},
			{"no second one beside it", func(p *pausing) pauseEffect { return pauseEffect{began: p.takeProbe(at(60))} }, want{true, pauseEffect{}}},
			{"it fails", func(p *pausing) pauseEffect { return p.probed(false, at(6)) }, want{true, pauseEffect{}}},
			{"10 s are not over", func(p *pausing) pauseEffect { return pauseEffect{began: p.takeProbe(at(15))} }, want{true, pauseEffect{}}},
			{"the second probe", func(p *pausing) pauseEffect { return pauseEffect{began: p.takeProbe(at(16))} }, want{true, began}},
			{"it succeeds", func(p *pausing) pauseEffect { return p.probed(true, at(17)) }, want{false, resumes}},
			{"it is written", wrote(true, 18), want{false, pauseEffect{}}},
		},
		"G03: a probe that is lost is made again at once": {
			{"the breaker trips", tripped, want{true, trips}},
			{"it is written", wrote(true, 1), want{true, pauseEffect{}}},
			{"the first probe", func(p *pausing) pauseEffect { return pauseEffect{began: p.takeProbe(at(5))} }, want{true, began}},
			{"it is taken away", func(p *pausing) pauseEffect { p.probeLost(at(6)); return pauseEffect{} }, want{true, pauseEffect{}}},
			{"again", func(p *pausing) pauseEffect { return pauseEffect{began: p.takeProbe(at(6))} }, want{true, began}},
		},
		"G03: probes are inherited": {
			{"a peer pauses", heard(theirs.text(), 0), want{true, began}},
			{"the peer lives", looked(true, true, 1), want{true, pauseEffect{}}},
			{"the peer is gone", looked(false, true, 1), want{true, pauseEffect{write: &pauseWrite{theirs.text(), mine.text()}}}},
			{"once", looked(false, true, 1), want{true, pauseEffect{}}},
			{"it is written", wrote(true, 1), want{true, pauseEffect{}}},
			{"the first probe", func(p *pausing) pauseEffect { return pauseEffect{began: p.takeProbe(at(6))} }, want{true, began}},
		},
		"G09: the prober stops itself": {
			{"the breaker trips", tripped, want{true, trips}},
			{"it is written", wrote(true, 1), want{true, pauseEffect{}}},
			{"this one stops itself", (*pausing).proberStops, want{true, pauseEffect{write: &pauseWrite{mine.text(), pausedBy("").text()}}}},
			{"once", (*pausing).proberStops, want{true, pauseEffect{}}},
			{"it is written", wrote(true, 2), want{true, pauseEffect{}}},
			{"no probe any more", func(p *pausing) pauseEffect { return pauseEffect{began: p.takeProbe(at(100))} }, want{true, pauseEffect{}}},
			{"nothing to give up", (*pausing).proberStops, want{true, pauseEffect{}}},
			{"a peer inherits", heard(theirs.text(), 3), want{true, pauseEffect{}}},
		},
		"G09: a stop that only this consumer knows of": {
			{"it fails alone", tripped, want{true, trips}},
			{"that is written nowhere", wrote(true, 0), want{true, pauseEffect{}}},
			{"once", tripped, want{true, pauseEffect{}}},
			{"too early", func(p *pausing) pauseEffect { return pauseEffect{began: p.takeProbe(at(4))} }, want{true, pauseEffect{}}},
			{"the first trial", func(p *pausing) pauseEffect { return pauseEffect{began: p.takeProbe(at(5))} }, want{true, began}},
			{"it fails", func(p *pausing) pauseEffect { return p.probed(false, at(5)) }, want{true, pauseEffect{}}},
			{"10 s are not over", func(p *pausing) pauseEffect { return pauseEffect{began: p.takeProbe(at(14))} }, want{true, pauseEffect{}}},
			{"the second trial", func(p *pausing) pauseEffect { return pauseEffect{began: p.takeProbe(at(15))} }, want{true, began}},
			{"it succeeds", func(p *pausing) pauseEffect { return p.probed(true, at(16)) }, want{false, resumes}},
			{"that is written nowhere", wrote(true, 16), want{false, pauseEffect{}}},
			{"it fails alone again", tripped, want{true, trips}},
		},
		"a prober that has nothing to try": {
			{"the breaker trips", tripped, want{true, trips}},
			{"it is written", wrote(true, 1), want{true, pauseEffect{}}},
			{"it is not time yet", looked(false, false, 14), want{true, pauseEffect{}}},
			{"it has something", looked(false, true, 15), want{true, pauseEffect{}}},
			{"it has had nothing for 10 s", looked(false, false, 15), want{true, pauseEffect{write: &pauseWrite{mine.text(), pausedBy("").text()}}}},
			{"it is written", wrote(true, 16), want{true, pauseEffect{}}},
			{"no probe any more", func(p *pausing) pauseEffect { return pauseEffect{began: p.takeProbe(at(17))} }, want{true, pauseEffect{}}},
			{"it leaves them to others", looked(false, false, 17), want{true, pauseEffect{}}},
			{"for 2.5 s", looked(false, false, 19), want{true, pauseEffect{}}},
			{"nobody has taken them", looked(false, false, 20), want{true, pauseEffect{write: &pauseWrite{pausedBy("").text(), mine.text()}}}},
		},
		"a prober whose probe takes long": {
			{"the breaker trips", tripped, want{true, trips}},
			{"it is written", wrote(true, 1), want{true, pauseEffect{}}},
			{"the first probe", func(p *pausing) pauseEffect { return pauseEffect{began: p.takeProbe(at(5))} }, want{true, began}},
			{"nothing else is here", looked(false, false, 100), want{true, pauseEffect{}}},
			{"it succeeds", func(p *pausing) pauseEffect { return p.probed(true, at(101)) }, want{false, resumes}},
		},
		"one that has nothing to try inherits last": {
			{"a peer pauses", heard(theirs.text(), 0), want{true, began}},
			{"the peer is gone", looked(false, false, 1), want{true, pauseEffect{}}},
			{"it was only slow", looked(true, false, 3), want{true, pauseEffect{}}},
			{"it is gone", looked(false, false, 5), want{true, pauseEffect{}}},
			{"others may have something", looked(false, false, 7), want{true, pauseEffect{}}},
			{"nobody has taken them", looked(false, false, 8), want{true, pauseEffect{write: &pauseWrite{theirs.text(), mine.text()}}}},
		},
		"another one inherits": {
			{"a peer pauses", heard(theirs.text(), 0), want{true, began}},
			{"the peer is gone", looked(false, true, 1), want{true, pauseEffect{write: &pauseWrite{theirs.text(), mine.text()}}}},
			{"another one was faster", wrote(false, 1), want{true, pauseEffect{}}},
			{"no probe", func(p *pausing) pauseEffect { return pauseEffect{began: p.takeProbe(at(100))} }, want{true, pauseEffect{}}},
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
		texts := []string{"", Pause{By: PausedByOperator}.text(), pausedBy("me").text(), pausedBy("peer").text()}
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
			"it looks": func(t *rapid.T) {
				take(p.looked(rapid.Bool().Draw(t, "lives"), rapid.Bool().Draw(t, "can try"), now))
			},
			"I am sick": func(*rapid.T) { take(p.proberStops()) },
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
		if prober := log == pausedBy("me").text(); p.mayProbe(now.Add(probeMost)) != prober {
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

// Whatever has happened: if some consumers can try a delivery, one of them makes the probes in the end;
// and if none can, there is one that reads, time and again.
func TestG09ProbesGoToWhoeverCanTry(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		begin := time.Unix(1_800_000_000, 0)
		now := begin
		log := pausedBy("prober of old").text()
		all := make([]*sibling, rapid.IntRange(2, 4).Draw(t, "consumers"))
		for i := range all {
			all[i] = &sibling{phase: time.Duration(rapid.IntRange(0, 19).Draw(t, "phase")) * beatEvery / 20}
			all[i].self = fmt.Sprint(i)
		}
		isThere := func(name string) bool {
			return slices.ContainsFunc(all, func(s *sibling) bool { return s.self == name && !s.gone })
		}
		beat := func(s *sibling) {
			e := s.heard(log, now)
			if e.write == nil {
				e = s.looked(isThere(s.pause.Consumer), s.canTry, now)
			}
			if e.write != nil {
				done := e.write.seen == log
				if done {
					log = e.write.text
				}
				s.wrote(done, now)
			}
			if s.canTry && s.takeProbe(now) {
				s.probed(false, now)
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

		canTry := slices.ContainsFunc(all, func(s *sibling) bool { return s.canTry && !s.gone })
		reads := now // when one that had nothing was last allowed to read
		pass(time.Minute, func(s *sibling) {
			switch {
			case canTry && s.isProber() && !s.canTry:
				t.Fatalf("%s makes the probes and has nothing to try", s.self)
			case canTry && !isThere(parsePause(log).Consumer):
				t.Fatalf("the probes are vacant, and some can try: %s", log)
			case !canTry && s.mayProbe(now):
				reads = now
			case !canTry && now.Sub(reads) > vacantFor+probeFirst+4*beatEvery:
				t.Fatalf("nobody has read for %v", now.Sub(reads))
			}
		})
	})
}
