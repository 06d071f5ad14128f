package pipeline

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/rishi-platform/millrace/internal/redistest"
)

// sharedLog is a log that many may write.
type sharedLog struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *sharedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *sharedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Where a group begins says nothing to one that is there, and the log says that.
func TestP25FromOfAGroupThatIsThere(t *testing.T) {
	t.Parallel()
	log := &sharedLog{}
	cfg := Config{Redis: redistest.Shared(t).Options(), Namespace: redistest.Namespace(t), Logger: slog.New(slog.NewTextHandler(log, nil))}
	said := func() int { return strings.Count(log.String(), "group is there already") }
	b := openBus(t, cfg)
	for _, test := range []struct {
		from Position
		want int
	}{{Now, 0}, {"", 0}, {Now, 1}, {Oldest, 2}} {
		tally := newTally()
		consume(t, b, GroupConfig{Group: "g", Patterns: []string{"booking.*"}, From: test.from}, "booking", tally.ack)
		if got := said(); got != test.want {
			t.Errorf("from %q: said %d times, want %d", test.from, got, test.want)
		}
	}
}
