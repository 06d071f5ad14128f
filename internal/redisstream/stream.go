package redisstream

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

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
