package main

import (
	"fmt"
	"os"
	"time"
)

// progress is a line on a terminal that says how far long work is. Where stderr is no terminal it says nothing.
type progress struct {
	out   *os.File
	total int
	begun time.Time
	shown time.Time
}

func newProgress(out *os.File, total int) *progress {
	info, err := out.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 || total < 1000 {
		return &progress{}
	}
	return &progress{out: out, total: total, begun: time.Now()}
}

// at shows that so many are done, a few times a second.
func (p *progress) at(done int) {
	if p.out == nil || time.Since(p.shown) < 200*time.Millisecond {
		return
	}
	p.shown = time.Now()
	fmt.Fprintf(p.out, "\r%d of %d, %.0f a second", done, p.total, float64(done)/time.Since(p.begun).Seconds())
}

// end clears the line.
func (p *progress) end() {
	if p.out != nil {
		fmt.Fprint(p.out, "\r\033[K")
	}
}
