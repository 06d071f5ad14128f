package redisstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// Description is a stream with its groups.
type Description struct {
	Stream string
	Info   StreamInfo
	Groups []GroupInfo
	Err    error // nil where all of it is known, else why a part is missing
}

const (
	// streamsPerTrip is of how many streams one round trip asks. Each answers what its :meta holds:
	// some hundred bytes for each consumer.
	streamsPerTrip = 32
	// groupsPerTrip is of how many groups one round trip asks, which is nine commands each.
	groupsPerTrip = 100
)

// Describe describes streams: 32 of them, with 20 groups each, in eight round trips, and one that
// does not exist as one without groups. When ctx ends before all is known, what is known is
// returned, and the others have an error.
func (c *Client) Describe(ctx context.Context, streams []string) []Description {
	described := make([]Description, len(streams))
	for i, stream := range streams {
		described[i].Stream = stream
	}
	for some := range slices.Chunk(described, streamsPerTrip) {
		if err := context.Cause(ctx); err != nil {
			for i := range some {
				some[i].Err = err
			}
			continue
		}
		c.describe(ctx, some)
	}
	return described
}

// Groups describes the groups of a stream; a stream that does not exist has none.
func (c *Client) Groups(ctx context.Context, stream string) ([]GroupInfo, error) {
	d := c.Describe(ctx, []string{stream})[0]
	if d.Err != nil {
		return nil, d.Err
	}
	return d.Groups, nil
}

// streamParts are the answers that describe one stream.
type streamParts struct {
	info   *redis.Cmd
	groups *redis.XInfoGroupsCmd
	meta   *redis.MapStringStringCmd
}

// describe fills in descriptions: first of the streams, then of all their groups. Nothing of it needs a right to write.
func (c *Client) describe(ctx context.Context, described []Description) {
	var now *redis.TimeCmd
	parts := make([]streamParts, len(described))
	readOnlyPipelined(ctx, c.admin, infoScript, func(p redis.Pipeliner, run evaluation) {
		now = p.Time(ctx)
		for i, d := range described {
			key := c.streamKey(d.Stream)
			parts[i] = streamParts{
				info:   run(ctx, p, []string{key}),
				groups: p.XInfoGroups(ctx, key),
				meta:   p.HGetAll(ctx, c.metaKey(d.Stream)),
			}
		}
	})
	var groups []*groupParts
	for i := range described {
		d := &described[i]
		d.Info, d.Err = parts[i].stream()
		if d.Err == nil && Classify(now.Err()) != Denied { // a user may read and have no right to TIME
			d.Err = now.Err()
		}
		if d.Err != nil || !d.Info.Exists {
			continue
		}
		for _, g := range parts[i].groups.Val() {
			groups = append(groups, &groupParts{of: d, group: g, meta: parts[i].meta.Val(), next: parts[i].next(g.Name)})
		}
	}
	for some := range slices.Chunk(groups, groupsPerTrip) {
		c.describeGroups(ctx, some, timeOf(now))
	}
}

// timeOf is the time of the server, or ours where it does not say it.
func timeOf(now *redis.TimeCmd) time.Time {
	if now.Err() != nil {
		return time.Now()
	}
	return now.Val()
}

// next is the ID of the first entry that the group has not got; zero: there is none, or it is not known.
func (p streamParts) next(group string) (id ID) {
	values, _ := p.info.Slice() // stream has looked at the error
	for i := 4; i+1 < len(values); i += 2 {
		if values[i] == group {
			text, _ := values[i+1].(string)
			id, _ = ParseID(text)
		}
	}
	return id
}

// stream reads what the answers say of the stream itself.
func (p streamParts) stream() (StreamInfo, error) {
	values, err := p.info.Slice()
	switch {
	case err != nil || len(values) == 0:
		return StreamInfo{}, err
	case p.groups.Err() != nil && !isNoSuchKey(p.groups.Err()):
		err = p.groups.Err()
	case p.meta.Err() != nil:
		err = p.meta.Err()
	}
	if len(values) < 4 {
		return StreamInfo{}, errReply
	}
	info := StreamInfo{Exists: true}
	info.Length, _ = values[0].(int64)
	info.EntriesAdded, _ = values[1].(int64)
	last, _ := values[2].(string)
	first, _ := values[3].(string)
	info.First, _ = ParseID(first) // absent in an empty stream
	var bad error
	if info.Last, bad = ParseID(last); bad != nil {
		return StreamInfo{}, fmt.Errorf("last generated ID %q: %w", last, bad)
	}
	info.SeenLost, _ = strconv.ParseInt(p.meta.Val()["seenlost"], 10, 64) // absent where there were none
	return info, err
}

// groupParts are the answers that describe one group.
type groupParts struct {
	of    *Description
	group redis.XInfoGroup
	meta  map[string]string
	next  ID // see streamParts.next

	pending, lanePending          *redis.XPendingExtCmd
	lane, dead, deferred, waiting *redis.IntCmd
	alive                         *redis.ZSliceCmd
	consumers, laneConsumers      *redis.XInfoConsumersCmd
	waits                         *redis.Cmd // nil where nothing waits
	newDead                       *redis.Cmd // nil where there are no dead letters
}

func (c *Client) describeGroups(ctx context.Context, groups []*groupParts, now time.Time) {
	_, _ = c.admin.Pipelined(ctx, func(p redis.Pipeliner) error { // the replies say it
		for _, g := range groups {
			stream, name := g.of.Stream, g.group.Name
			g.pending = p.XPendingExt(ctx, oldest(c.streamKey(stream), name))
			g.lanePending = p.XPendingExt(ctx, oldest(c.laneKey(stream, name), name))
			g.lane = p.XLen(ctx, c.laneKey(stream, name))
			g.dead = p.XLen(ctx, c.deadKey(stream, name))
			g.deferred = p.ZCard(ctx, c.deferredKey(stream, name))
			g.waiting = p.ZCard(ctx, c.waitingKey(stream, name))
			g.alive = p.ZRangeWithScores(ctx, c.aliveKey(stream, name), 0, -1)
			g.consumers = p.XInfoConsumers(ctx, c.streamKey(stream), name)
			g.laneConsumers = p.XInfoConsumers(ctx, c.laneKey(stream, name), name)
		}
		return nil
	})
	if slices.ContainsFunc(groups, func(g *groupParts) bool { return g.waiting.Val() > 0 }) {
		readOnlyPipelined(ctx, c.admin, waitingScript, func(p redis.Pipeliner, run evaluation) {
			for _, g := range groups {
				if g.waiting.Val() > 0 {
					key := c.waitingKey(g.of.Stream, g.group.Name)
					g.waits = run(ctx, p, []string{key}, maxWaiting)
				}
			}
		})
	}
	if slices.ContainsFunc(groups, func(g *groupParts) bool { return g.dead.Val() > 0 }) {
		readOnlyPipelined(ctx, c.admin, newestScript, func(p redis.Pipeliner, run evaluation) {
			for _, g := range groups {
				if g.dead.Val() > 0 {
					key := c.deadKey(g.of.Stream, g.group.Name)
					g.newDead = run(ctx, p, []string{key}, now.Add(-newDeadWithin).UnixMilli(), MaxNewDead)
				}
			}
		})
	}
	for _, g := range groups {
		info, err := g.info(now)
		switch {
		case err == nil:
			g.of.Groups = append(g.of.Groups, info)
		case Classify(err) == Lost: // it was destroyed meanwhile
		case g.of.Err == nil:
			g.of.Err = err
		}
	}
}

// info reads what the answers say of the group.
func (g *groupParts) info(now time.Time) (GroupInfo, error) {
	for _, cmd := range []redis.Cmder{
		g.pending, g.lane, g.dead, g.deferred, g.waiting, g.alive, g.consumers,
	} {
		if cmd.Err() != nil {
			return GroupInfo{}, cmd.Err()
		}
	}
	// A group of other software has no lane.
	for _, err := range []error{g.laneConsumers.Err(), g.lanePending.Err()} {
		if err != nil && !isNoSuchKey(err) && Classify(err) != Lost {
			return GroupInfo{}, err
		}
	}
	delivered, err := ParseID(g.group.LastDeliveredID)
	if err != nil {
		return GroupInfo{}, err
	}
	info := GroupInfo{
		Name: g.group.Name, Consumers: int(g.group.Consumers),
		Pending: g.group.Pending, LastDelivered: delivered,
		Lag: lag(g.of.Info, g.group, delivered), Lost: -1,
		Deferred: g.deferred.Val() + g.waiting.Val(), Waits: g.waiting.Val(), Lane: g.lane.Val(), Dead: g.dead.Val(),
		Unhandled: map[string]int64{}, Waiting: map[string]time.Time{},
	}
	if err := info.addOldest(g.of.Stream, g.pending.Val(), g.lanePending.Val()); err != nil {
		return GroupInfo{}, err
	}
	if g.waits != nil {
		if info.Waiting, err = waitingSince(g.waits); err != nil {
			return GroupInfo{}, err
		}
	}
	if g.newDead != nil {
		if info.NewDead, info.NewDeadSince, err = newest(g.newDead); err != nil {
			return GroupInfo{}, err
		}
	}
	info.addMembers(g.alive.Val(), now.Add(-aliveWithin), g.consumers.Val(), g.laneConsumers.Val())
	info.addMeta(g.meta)
	if !g.next.IsZero() {
		info.Undelivered = max(0, now.Sub(latest(g.next.Time(), info.Since)))
	}
	return info, nil
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// newest reads the answer of newest.lua.
func newest(reply *redis.Cmd) (count int64, since time.Time, err error) {
	values, err := reply.Int64Slice()
	if err != nil {
		return 0, since, err
	}
	if len(values) != 2 {
		return 0, since, errReply
	}
	return values[0], time.UnixMilli(values[1]), nil
}

// oldest asks for the pending entries with the lowest IDs.
func oldest(key, group string) *redis.XPendingExtArgs {
	return &redis.XPendingExtArgs{Stream: key, Group: group, Start: "-", End: "+", Count: OldestListed}
}

// addOldest takes what oldest found in the stream and in the lane.
func (g *GroupInfo) addOldest(stream string, found ...[]redis.XPendingExt) error {
	for lane, rows := range found {
		for _, row := range rows {
			id, err := ParseID(row.ID)
			if err != nil {
				return errors.Join(errReply, err)
			}
			ref := Ref{Stream: stream, Lane: lane == 1, ID: id}
			g.Oldest = append(g.Oldest, Pending{Ref: ref, Consumer: row.Consumer, Idle: row.Idle})
		}
	}
	if len(g.Oldest) > 0 && !g.Oldest[0].Lane {
		g.OldestPending = g.Oldest[0].ID
	}
	return nil
}
