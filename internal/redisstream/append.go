package redisstream

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// Append stores the messages at the end of the stream, in order, all or none, and returns the ID of the first, the others follow it
// with consecutive sequence numbers; and the sequence of the writer's last append until then, 0 if it had none. The same writer and
// sequence again stores nothing and returns the same ID.
func (c *Client) Append(ctx context.Context, stream string, w Writer, messages []Message) (first ID, before uint64, err error) {
	to := c.targets.of(c, stream)
	if err := c.register(ctx, to); err != nil {
		return ID{}, 0, notSent{err} // whatever became of the registry, no message was sent
	}
	args := make([]any, 0, 9+3*len(messages))
	args = append(args, evalsha, appendHash, 3, to.key, to.writers, to.meta, w.Name, w.Seq, c.maxLen)
	bytes := 0
	for i := range messages {
		m := &messages[i] // pointers: a string in an interface would cost an allocation
		args = append(args, &m.UUID, &m.Metadata, &m.Payload)
		bytes += m.size()
	}
	text, err := c.flushes.eval(ctx, &batchCall{script: appendScript, args: args, bytes: bytes}).Text()
	if err != nil {
		return ID{}, 0, err
	}
	id, last, _ := strings.Cut(text, " ")
	if before, err = strconv.ParseUint(last, 10, 64); err != nil {
		return ID{}, 0, fmt.Errorf("append: answer %q", text)
	}
	first, err = ParseID(id)
	return first, before, err
}

// What is the same in each append is made once: an interface of a string would cost an allocation each time.
var evalsha, appendHash, onceHash any = "evalsha", appendScript.Hash(), onceScript.Hash()

func (m *Message) size() int { return len(m.UUID) + len(m.Metadata) + len(m.Payload) }
