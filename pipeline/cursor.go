package pipeline

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// Cursor is how far a subscription has got: for each stream the position of the last event that it has heard, or that it has passed over, and how
// many entries were ever added up to there. Whoever begins behind it, in another process too, hears what came meanwhile, and is told
// exactly how many events are gone (Subscription.After, Subscription.Gap). It is opaque text of letters, digits, hyphens and underscores, about 50 bytes
// for each stream.
type Cursor string

// cursor is what a Cursor says.
type cursor struct {
	Time   int64           `json:"t"`           // ms since the Unix epoch: a stream that is not named here is new since then
	Redis  map[string]spot `json:"r,omitempty"` // by stream
	Memory map[string]spot `json:"m,omitempty"`
	Of     string          `json:"o,omitempty"` // whose memory
}

// MarshalText writes a spot as "position ordinal", without the ordinal where nobody knows it.
func (s spot) MarshalText() ([]byte, error) {
	if s.ordinal == uncounted {
		return []byte(s.id.String()), nil
	}
	return fmt.Appendf(nil, "%s %d", s.id, s.ordinal), nil
}

// UnmarshalText reads what MarshalText has written.
func (s *spot) UnmarshalText(text []byte) (err error) {
	id, ordinal, counted := strings.Cut(string(text), " ")
	s.ordinal = uncounted
	if counted {
		if s.ordinal, err = strconv.ParseInt(ordinal, 10, 64); err != nil || s.ordinal < 0 {
			return errors.New("want how many entries were added")
		}
	}
	s.id, err = redisstream.ParseID(id)
	return err
}

func (c Cursor) parse() (cursor, error) {
	var p cursor
	text, err := base64.RawURLEncoding.DecodeString(string(c))
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	if err != nil || p.Time <= 0 {
		return p, errors.New("want a cursor as Millrace gave it")
	}
	return p, nil
}

func (c *cursor) String() string {
	text, _ := json.Marshal(c) // numbers and texts always marshal
	return base64.RawURLEncoding.EncodeToString(text)
}

// spots returns the part of the cursor that speaks of Redis, or of the memory of a process.
func (c *cursor) spots(local bool) map[string]spot {
	if local {
		return c.Memory
	}
	return c.Redis
}

// at returns where the cursor stands in a log of this process.
func (c *cursor) at(key tailKey, instance string) (spot, bool) {
	if key.local && c.Of != instance {
		return spot{}, false
	}
	at, ok := c.spots(key.local)[key.stream]
	return at, ok
}

// Cursor returns how far a subscription has got: up to the events of which the function has returned. ErrUnknownSubscription if there is none with that ID.
func (b *Bus) Cursor(id string) (Cursor, error) {
	b.mu.Lock()
	s := b.subscriptions[id]
	b.mu.Unlock()
	if s == nil {
		return "", fmt.Errorf("%w: %s", ErrUnknownSubscription, id)
	}
	return s.cursor(nil), nil
}

// CurrentCursor returns how far the subscription has got whose function is called with this ctx, the present event included: to be kept together with
// what the function does. It is empty outside of one.
func CurrentCursor(ctx context.Context) Cursor {
	h, _ := ctx.Value(recordKey{}).(*heard)
	if h == nil {
		return ""
	}
	return h.by.cursor(h)
}

// heard is an event that the function of a subscription is called with.
type heard struct {
	Record
	by  *subscription
	key tailKey
	at  spot
}

// places are how far a subscription has got in each log.
type places struct {
	at     map[tailKey]spot
	listed time.Time // up to when streams that are made later were looked for; zero: there are none to look for
}

// reached notes how far the subscription has got.
func (s *subscription) reached(key tailKey, at spot) {
	s.placing.Lock()
	defer s.placing.Unlock()
	s.places.at[key] = at
}

func (s *subscription) cursor(h *heard) Cursor {
	s.placing.Lock()
	at, listed := maps.Clone(s.places.at), s.places.listed
	s.placing.Unlock()
	if h != nil {
		at[h.key] = h.at
	}
	if listed.IsZero() {
		listed = time.Now()
	}
	c := cursor{Time: listed.UnixMilli(), Redis: map[string]spot{}, Memory: map[string]spot{}}
	for key, at := range at {
		c.spots(key.local)[key.stream] = at
	}
	if len(c.Memory) > 0 {
		c.Of = s.bus.instance
	}
	return Cursor(c.String())
}
