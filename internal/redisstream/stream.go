package redisstream

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// Append stores the messages at the end of the stream, in order, all or none, and returns the ID of the first, the others follow it
// with consecutive sequence numbers; and the sequence of the writer's last append until then, 0 if it had none. The same writer and
// sequence again stores nothing and returns the same ID.
func (c *Client) Append(ctx context.Context, stream string, w Writer, messages []Message) (first ID, before uint64, err error) {
	if err := c.register(ctx, stream); err != nil {
		return ID{}, 0, notSent{err} // whatever became of the registry, no message was sent
	}
	args := make([]any, 0, 3+3*len(messages))
	args = append(args, w.Name, strconv.FormatUint(w.Seq, 10), c.maxLen)
	for i := range messages {
		m := &messages[i] // pointers: a string in an interface would cost an allocation
		args = append(args, &m.UUID, &m.Metadata, &m.Payload)
	}
	keys := []string{c.streamKey(stream), c.writersKey(stream), c.metaKey(stream)}
	text, err := appendScript.Run(ctx, c.appends, keys, args...).Text()
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

// registerEvery is how often a stream that is appended to is entered into the registry again, so that a registry that was
// lost with the rest of the server's data comes back.
const registerEvery = 5 * time.Second

// register enters the stream into the registry, before its first append: a stream that is not there would not be found by those who
// follow all streams.
func (c *Client) register(ctx context.Context, stream string) error {
	if !c.registered.due(stream) {
		return nil
	}
	return c.enter(ctx, stream)
}

func (c *Client) enter(ctx context.Context, stream string) error {
	if err := c.appends.SAdd(ctx, c.registryKey(), stream).Err(); err != nil {
		return err
	}
	c.registered.note(stream)
	return nil
}

// registrations remembers when each stream was last entered into the registry.
type registrations struct {
	mu sync.Mutex
	at map[string]time.Time
}

func (r *registrations) due(stream string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, ok := r.at[stream]
	return !ok || time.Since(at) > registerEvery
}

func (r *registrations) note(stream string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.at == nil {
		r.at = map[string]time.Time{}
	}
	r.at[stream] = time.Now()
}

// Streams names the streams in the registry, sorted.
func (c *Client) Streams(ctx context.Context) ([]string, error) {
	streams, err := c.admin.SMembers(ctx, c.registryKey()).Result()
	slices.Sort(streams)
	return streams, err
}

// Range returns up to count entries from from to to, both included; with reverse the newest first.
func (c *Client) Range(ctx context.Context, stream string, from, to ID, count int, reverse bool) ([]Entry, error) {
	return c.entries(ctx, c.streamKey(stream), from, to, count, reverse)
}

func (c *Client) entries(ctx context.Context, key string, from, to ID, count int, reverse bool) ([]Entry, error) {
	command, first, second := "XRANGE", from, to
	if reverse {
		command, first, second = "XREVRANGE", to, from
	}
	text, err := raw(ctx, c.admin, command, key, first.String(), second.String(), "COUNT", count)
	if err != nil {
		return nil, err
	}
	var entries []Entry
	err = newReply(text).entries(func(e Entry, _ bool) { entries = append(entries, e) })
	return entries, err
}

// Tail waits until there are entries behind one of the given IDs or block has passed, and returns up to count of each stream.
func (c *Client) Tail(ctx context.Context, after map[string]ID, count int, block time.Duration) (map[string][]Entry, error) {
	keys := []any{"STREAMS"}
	streams := map[string]string{} // by key
	var ids []any
	for stream, id := range after {
		key := c.streamKey(stream)
		streams[key] = stream
		keys = append(keys, key)
		ids = append(ids, id.String())
	}
	text, err := c.readBlocking(ctx, block, []any{"XREAD", "COUNT", count}, append(keys, ids...))
	if err != nil {
		return nil, err
	}
	read := map[string][]Entry{}
	err = newReply(text).streams(func(key string, e Entry, _ bool) {
		read[streams[key]] = append(read[streams[key]], e)
	})
	return read, err
}

// blockMillis is a wait as BLOCK takes it: at least 1 ms, since 0 means for ever, and at most MaxBlock.
func blockMillis(block time.Duration) int64 {
	return min(max(block, time.Millisecond), MaxBlock).Milliseconds()
}

// Info describes a stream; one that does not exist is not an error.
func (c *Client) Info(ctx context.Context, stream string) (StreamInfo, error) {
	info, err := c.admin.XInfoStream(ctx, c.streamKey(stream)).Result()
	if err != nil {
		if isNoSuchKey(err) {
			return StreamInfo{}, nil
		}
		return StreamInfo{}, err
	}
	last, err := ParseID(info.LastGeneratedID)
	if err != nil {
		return StreamInfo{}, fmt.Errorf("last generated ID %q: %w", info.LastGeneratedID, err)
	}
	first, _ := ParseID(info.FirstEntry.ID) // absent in an empty stream
	return StreamInfo{Exists: true, Length: info.Length, First: first, Last: last, EntriesAdded: info.EntriesAdded}, nil
}

func isNoSuchKey(err error) bool {
	return redis.HasErrorPrefix(err, "no such key") // go-redis takes "ERR " off first
}
