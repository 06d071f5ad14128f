package pipeline

import (
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
			{"the peer is gone", (*pausing).proberGone, want{true, pauseEffect{write: &pauseWrite{theirs.text(), mine.text()}}}},
			{"once", (*pausing).proberGone, want{true, pauseEffect{}}},
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
		"another one inherits": {
			{"a peer pauses", heard(theirs.text(), 0), want{true, began}},
			{"the peer is gone", (*pausing).proberGone, want{true, pauseEffect{write: &pauseWrite{theirs.text(), mine.text()}}}},
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
			"the prober goes": func(*rapid.T) { take(p.proberGone()) },
			"I am sick":       func(*rapid.T) { take(p.proberStops()) },
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
