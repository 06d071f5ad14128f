package redisstream

import (
	"context"
	"fmt"
	"time"
)

// SeenBound is how many keys of a stream are remembered; beyond it the oldest go, which is counted.
const SeenBound = 1_000_000

// Seen makes an append happen once: not where one with the same key did within its window.
type Seen struct {
	Key    string // short text without NUL
	Window time.Duration
	Print  string // of what is appended, without NUL: another one under the same key is a conflict; empty: whatever it is
}

// Appended is what became of a message that is appended once.
type Appended struct {
	ID        ID     // where it stands; zero: not known any more
	UUID      string // of the event that stands there
	Duplicate bool   // it was there already
	Conflict  bool   // the key was used for something else, which stands there; nothing was appended
}

// AppendOnce is Append for messages that have a key each.
func (c *Client) AppendOnce(ctx context.Context, stream string, w Writer, messages []Message, seen []Seen) (appended []Appended, before uint64, err error) {
	to := c.targets.of(c, stream)
	if err := c.register(ctx, to); err != nil {
		return nil, 0, notSent{err}
	}
	args := make([]any, 0, 12+6*len(messages))
	args = append(args, evalsha, onceHash, 5, to.key, to.writers, to.seen, to.seenWhat, to.meta, w.Name, w.Seq, c.maxLen, SeenBound)
	bytes := 0
	for i := range messages {
		m, one := &messages[i], &seen[i]
		args = append(args, &m.UUID, &m.Metadata, &m.Payload, &one.Key, one.Window.Milliseconds(), &one.Print)
		bytes += m.size()
	}
	reply, err := c.flushes.eval(ctx, &batchCall{script: onceScript, args: args, bytes: bytes}).Slice()
	if err != nil {
		return nil, 0, err
	}
	last, isLast := reply[0].(int64)
	rows, isRows := reply[1].([]any)
	if !isLast || !isRows || len(rows) != len(messages) {
		return nil, 0, fmt.Errorf("append once: answer %v", reply)
	}
	appended = make([]Appended, len(messages))
	for i, row := range rows {
		if err := appended[i].parse(row); err != nil {
			return nil, 0, err
		}
	}
	return appended, uint64(last), nil
}

func (a *Appended) parse(row any) error {
	fields, ok := row.([]any)
	if !ok || len(fields) != 3 {
		return fmt.Errorf("append once: answer %v", row)
	}
	code, _ := fields[0].(int64)
	position, _ := fields[1].(string)
	a.UUID, _ = fields[2].(string)
	a.Duplicate, a.Conflict = code == 1, code == 2
	if position == "" {
		return nil
	}
	var err error
	a.ID, err = ParseID(position)
	return err
}
