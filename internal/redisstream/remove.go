package redisstream

import (
	"context"
	"strings"
)

// Remove deletes a stream and all that belongs to it: entries, groups with what is pending, deferred, waiting or dead, the writers' marks,
// and at last its place in the registry. It is not an error when there is nothing to delete; it is one when the key holds something
// else than a stream, and then nothing is deleted. Marks of events that were done once stay until the server forgets them.
//
// It is not for a stream in use: a consumer that reads it makes its group, and with it the stream, anew.
func (c *Client) Remove(ctx context.Context, stream string) error {
	groups, err := c.everyGroup(ctx, stream)
	if err != nil {
		return err
	}
	keys := []string{c.streamKey(stream), c.metaKey(stream), c.writersKey(stream), c.seenKey(stream), c.seenWhatKey(stream)}
	for _, g := range groups {
		keys = append(keys, c.laneKey(stream, g), c.deferredKey(stream, g), c.waitingKey(stream, g), c.deadKey(stream, g), c.aliveKey(stream, g))
	}
	// All in one step, which Cluster allows: they share a slot. UNLINK, since DEL would hold the server up while it frees a long stream.
	if err := c.admin.Unlink(ctx, keys...).Err(); err != nil {
		return err
	}
	// Last, in its own slot: until everything else is gone, the stream can be found.
	if err := c.admin.SRem(ctx, c.registryKey(), stream).Err(); err != nil {
		return err
	}
	c.registered.forget(stream)
	return nil
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

// forget makes the next append enter the stream into the registry again.
func (r *registrations) forget(stream string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.at, stream)
}
