package pipeline

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

const (
	// onceWindow is how long an identity is remembered with PublishOptions.Once, keyWindow a key.
	onceWindow = 10 * time.Minute
	keyWindow  = 24 * time.Hour
)

// seenOf returns under which key an event of a call is appended once, and nil where it is not. Given is the event as the caller gave it: what was
// stamped differs between two calls.
func (o PublishOptions) seenOf(index, of int, given, stamped *Event) *redisstream.Seen {
	switch {
	case o.Key != "":
		print := short("%s\x00%s\x00%s\x00%s\x00%s\x00%d\x00%s", given.ID, given.Type, given.Source, given.Subject, given.ContentType, of, given.Data)
		return &redisstream.Seen{Key: short("key\x00%d\x00%s", index, o.Key), Window: keyWindow, Print: print}
	case o.Once && given.ID != "": // else it is a new one
		print := short("%s\x00%s\x00%s\x00%s", stamped.Type, stamped.Subject, stamped.ContentType, stamped.Data)
		return &redisstream.Seen{Key: short("id\x00%s\x00%s", stamped.Source, stamped.ID), Window: onceWindow, Print: print}
	}
	return nil
}

// short is text of 22 characters that stands for longer text: 132 bits of its SHA-256.
func short(format string, args ...any) string {
	sum := sha256.Sum256(fmt.Appendf(nil, format, args...))
	return base64.RawURLEncoding.EncodeToString(sum[:])[:22]
}

// claimTimeout is how long a call with a key waits for what the key is used for: a Redis that is away has its own time.
const claimTimeout = time.Second

// claim refuses a call whose key was used for another one. Each stream remembers the keys of its own events; what a key was used for elsewhere only
// their common place tells. Where Redis is away that can't be asked, and the call goes its way.
func (b *Bus) claim(ctx context.Context, o PublishOptions, waiting []pending) error {
	if o.Key == "" {
		return nil
	}
	log := streamLog(b.log)
	if o.Scope == LocalOnly {
		log = b.local
	} else if b.redis != nil && b.look().isAway(b.redis.ClaimShard(short("key\x00%s", o.Key))) {
		return nil
	}
	var content strings.Builder
	for i := range waiting {
		content.WriteString(waiting[i].stream + "\x00" + waiting[i].once.Print + "\x00")
	}
	print := short("%s", content.String())
	asking, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	used, err := log.Claim(asking, short("key\x00%s", o.Key), print+" "+waiting[0].stream+" "+waiting[0].message.UUID, keyWindow)
	switch redisstream.Classify(err) {
	case redisstream.None:
	case redisstream.BackPressure, redisstream.Denied:
		return b.redisError("remember the idempotency key", "", err)
	default:
		return context.Cause(ctx) // nil: the append meets the same, and says how safe the events are
	}
	standing, by, _ := strings.Cut(used, " ")
	if standing != print {
		stream, id, _ := strings.Cut(by, " ")
		return fmt.Errorf("%w: by a call that begins with the event %s of stream %s", ErrConflict, id, stream)
	}
	return nil
}

// appended tells the callers what became of events that are appended once.
func (b *Bus) appended(batch []*pending, messages []redisstream.Message, appended []redisstream.Appended) {
	durability := Stored
	if b.redis == nil {
		durability = Volatile
	}
	for i, p := range batch {
		a := appended[i]
		if a.Conflict {
			b.published.add(Refused, 1)
			p.call.set(p.index, func(o *Outcome) { o.Durability, o.Err = Refused, b.conflict(p, a) })
			continue
		}
		if !a.Duplicate && !a.ID.IsZero() {
			b.remember(batch[i:i+1], messages[i:i+1], a.ID)
		}
		b.published.add(durability, 1)
		p.call.set(p.index, func(o *Outcome) {
			o.ID, o.Durability, o.Duplicate, o.Err = a.UUID, durability, a.Duplicate, nil
			if !a.ID.IsZero() {
				o.Position = positionOf(a.ID)
			}
		})
	}
}

// conflict is the error of an event that shares its identity or key with another one.
func (b *Bus) conflict(p *pending, a redisstream.Appended) error {
	return fmt.Errorf("event %s: %w, by the event %s at %s", p.message.UUID, ErrConflict, a.UUID, positionOf(a.ID))
}
