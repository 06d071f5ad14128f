package group

import (
	"slices"
	"strings"
	"time"

	"github.com/rishi-platform/millrace/internal/pattern"
	"github.com/rishi-platform/millrace/internal/redisstream"
)

const (
	// typesAtOnce is how many types one script looks for, or names.
	typesAtOnce = 100
	// walkMost bounds the scripts of one beat that name types of which none is handled here. Others
	// may be waited for in thousands; the next beat goes on behind them.
	walkMost = 4
)

// typeWalk goes through the types of which events wait and that patterns with wildcards may match,
// in their order, a part at a time.
type typeWalk struct {
	prefixes []string // of the patterns: what comes before the wildcard
	at       int      // which of them has its turn
	after    string   // the last type that was named
}

// fetchWaiting takes the events that wait for a handler, as far as one is here. Who lets them wait
// must not get them back: so they are fetched, and not sent around until they meet the right one
// (docs/adr/0003). Types are looked for by name where a pattern is one. However many others wait,
// it finds what it handles, if not with this beat.
func (c *Consumer) fetchWaiting(m *membership) {
	exact, prefixes := c.waitedFor(m.stream)
	for types := range slices.Chunk(exact, typesAtOnce) {
		if _, goOn := c.fetch(m, types); !goOn {
			return
		}
	}
	m.walk.prefixes = prefixes
	for idle := 0; idle < walkMost; {
		types, more := c.walk(m)
		if !more {
			return
		}
		types = slices.DeleteFunc(types, func(t string) bool { return !c.handles(t) })
		fetched, goOn := 0, true
		if len(types) > 0 {
			fetched, goOn = c.fetch(m, types)
		}
		if !goOn {
			return
		}
		if fetched == 0 {
			idle++
		}
	}
}

// waitedFor returns what this consumer handles of a stream: types, and what comes before the
// wildcard of each other pattern, none of which begins with another one.
func (c *Consumer) waitedFor(stream string) (exact, prefixes []string) {
	patterns := []string{"**"}
	if len(c.cfg.Patterns) > 0 {
		patterns = pattern.Of(c.cfg.Patterns, stream)
	}
	for _, p := range patterns {
		before, _, wild := strings.Cut(p, "*")
		if wild {
			prefixes = append(prefixes, before)
		} else {
			exact = append(exact, p)
		}
	}
	slices.Sort(prefixes)
	var apart []string
	for _, p := range prefixes {
		if n := len(apart); n == 0 || !strings.HasPrefix(p, apart[n-1]) {
			apart = append(apart, p)
		}
	}
	return exact, apart
}

// walk returns the next types of which events wait; false at the end, and where they can't be named
// now.
func (c *Consumer) walk(m *membership) (types []string, more bool) {
	w := &m.walk
	if w.at >= len(w.prefixes) {
		w.at, w.after = 0, ""
		return nil, false
	}
	prefix := w.prefixes[w.at]
	types, err := c.log.WaitingTypes(c.reading, m.stream, c.cfg.Group, prefix, w.after, typesAtOnce)
	switch {
	case err != nil:
		return nil, false // the next beat goes on
	case len(types) == 0:
		w.at, w.after = w.at+1, ""
	default:
		w.after = types[len(types)-1]
	}
	return types, true
}

// fetch takes the events of some types that wait, as long as there are any, and returns how many
// that were; false where it can't go on now.
func (c *Consumer) fetch(m *membership, types []string) (fetched int, goOn bool) {
	for {
		room, asked := c.roomToTake(m), time.Now()
		if room == 0 {
			return fetched, false
		}
		// As when taking over: reconcile may have found them and had them settled before this
		// answer came.
		listed, fresh, err := c.holdings.holdListed(c, func() ([]redisstream.Delivered, error) {
			count := c.budget.entries(min(room, takeBatch))
			fetched, err := c.log.Fetch(c.reading, c.self, m.stream, types, count)
			c.budget.answered(fetched, err)
			return fetched, err
		})
		c.holdings.arrive(c.stillOurs(fresh, asked), true) // also beside an error: they are held
		fetched += listed
		c.noteStep(m, stepFetch, err)
		if err != nil || listed == 0 {
			return fetched, err == nil
		}
	}
}
