package redisstream

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// removedFor is how long it is known that a stream was removed: longer than its other publishers take to notice that their entries are gone.
const removedFor = time.Hour

// Remove deletes a stream and all that belongs to it: entries, groups with what is pending, deferred, waiting or dead, the writers' marks,
// and at last its place in the registry. It is not an error when there is nothing to delete; it is one when the key holds something
// else than a stream, and then nothing is deleted. Marks of events that were done once stay until the server forgets them.
//
// It is not for a stream in use: a consumer that reads it makes its group, and with it the stream, anew. The names of the caller's writers begin with own.
func (c *Client) Remove(ctx context.Context, stream, own string) error {
	groups, err := c.everyGroup(ctx, stream)
	if err != nil {
		return err
	}
	keys := []string{c.removedKey(stream), c.writersKey(stream), c.streamKey(stream), c.metaKey(stream), c.seenKey(stream), c.seenWhatKey(stream)}
	for _, g := range groups {
		keys = append(keys, c.laneKey(stream, g), c.deferredKey(stream, g), c.waitingKey(stream, g), c.deadKey(stream, g), c.aliveKey(stream, g), c.flowKey(stream, g), c.failedKey(stream, g))
	}
	if err := removeScript.Run(ctx, c.admin, keys, own, removedFor.Milliseconds()).Err(); err != nil {
		return err
	}
	to := c.targets.of(c, stream)
	c.registrar.forget(to)
	// Last, in its own slot: until everything else is gone, the stream can be found.
	if err := c.admin.SRem(ctx, c.registryKey(), stream).Err(); err != nil {
		return err
	}
	c.registrar.forget(to) // the next append enters it again
	return nil
}

// RemovedAt returns when somebody else than its present publishers has removed a stream, in ms since the Unix epoch; 0 where that is not so, or was long ago.
func (c *Client) RemovedAt(ctx context.Context, stream string) (uint64, error) {
	ms, err := c.appends.Get(ctx, c.removedKey(stream)).Uint64()
	if errors.Is(err, redis.Nil) {
		return 0, nil
	}
	return ms, err
}

// everyGroup names the groups of a stream, those included of which only the companions are left.
func (c *Client) everyGroup(ctx context.Context, stream string) ([]string, error) {
	infos, err := c.admin.XInfoGroups(ctx, c.streamKey(stream)).Result()
	if err != nil && !isNoSuchKey(err) {
		return nil, err
	}
	var names []string
	for _, g := range infos {
		names = append(names, g.Name)
	}
	fields, err := c.admin.HKeys(ctx, c.metaKey(stream)).Result()
	if err != nil {
		return nil, err
	}
	for _, field := range fields {
		if name, ok := strings.CutPrefix(field, "patterns:"); ok {
			names = append(names, name) // most of them for the second time, which does no harm
		}
	}
	return names, nil
}
