package memstream

import (
	"fmt"
	"testing"
	"time"
)

func TestOnceMarksAreBounded(t *testing.T) {
	t.Parallel()
	var o onceMarks
	until := time.Now().Add(time.Hour)
	for i := range onceBound + 10 {
		o.mark(fmt.Sprint(i), until)
	}
	if len(o.marked) > onceBound || len(o.ring) != onceBound {
		t.Errorf("%d marks, %d in the ring, want at most %d", len(o.marked), len(o.ring), onceBound)
	}
	if !o.marked[fmt.Sprint(onceBound+9)].Equal(until) || !o.marked["5"].IsZero() {
		t.Error("the oldest do not go first")
	}
}
