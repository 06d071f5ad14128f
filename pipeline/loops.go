package pipeline

import (
	"context"
	"runtime/pprof"
	"sync"
)

// loops starts every goroutine of a bus, with a name that shows in profiles and stack dumps, and waits for them. A leak has one address.
type loops struct{ wg sync.WaitGroup }

func (l *loops) start(name string, f func()) {
	l.wg.Add(1)
	go pprof.Do(context.Background(), pprof.Labels("millrace", name), func(context.Context) {
		defer l.wg.Done()
		f()
	})
}

func (l *loops) wait() { l.wg.Wait() }
