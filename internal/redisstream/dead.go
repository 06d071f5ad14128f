package redisstream

import (
	"context"
	"errors"
	"strconv"

	"github.com/redis/go-redis/v9"
)

// FieldDead is the last field of a dead letter: what happened, as the burial reported it. Those before it are the original's.
const FieldDead = "millrace_dead"

// Bury gives deliveries up, all of one stream. Each has its own result; dropped is how many older dead letters had to go. The error is the
// first reason of those that are Unknown.
func (c *Client) Bury(ctx context.Context, consumer Consumer, stream string, bounds Bounds, burials []Burial) (settled []Settled, dropped int, err error) {
	replies := make([]*redis.Cmd, len(burials))
	_ = pipelined(ctx, c.groups, buryScript, func(p redis.Pipeliner) { // the replies say it
		for i, b := range burials {
			keys := []string{c.sourceKey(b.Ref, consumer.Group), c.streamKey(stream), c.deadKey(stream, consumer.Group), c.metaKey(stream),
				c.flowKey(stream, consumer.Group), c.failedKey(stream, consumer.Group)}
			replies[i] = buryScript.EvalSha(ctx, p, keys, consumer.Group, consumer.Name, b.ID.String(), flag(b.Lane), b.Original.String(),
				bounds.Length, bounds.Age.Milliseconds(), b.Report, b.Message.UUID, b.Message.Metadata, b.Message.Payload,
				b.Failure.Print, b.Failure.Event)
		}
	})
	settled = make([]Settled, len(burials))
	for i, reply := range replies {
		n, replyErr := reply.Int()
		switch {
		case replyErr == nil && n >= 0:
			dropped += n
		case replyErr == nil, Classify(replyErr) == Lost: // with its group
			settled[i] = LeaseLost
		default:
			settled[i] = Unknown
			if err == nil {
				err = replyErr
			}
		}
	}
	return settled, dropped, err
}

// Dead returns up to count dead letters of a group from from to to, both included; with reverse the newest first.
func (c *Client) Dead(ctx context.Context, stream, group string, from, to ID, count int, reverse bool) ([]Entry, error) {
	return c.entries(ctx, c.deadKey(stream, group), from, to, count, reverse)
}

// DeadAt returns the dead letters of a group at the given IDs, the first ones up to a number of bytes; at
// least one, however large. It returns how many of the IDs it has looked at: a letter that is gone is
// passed over.
func (c *Client) DeadAt(ctx context.Context, stream, group string, ids []ID, bytes int) (letters []Entry, looked int, err error) {
	args := make([]any, 0, 1+len(ids))
	args = append(args, bytes)
	for _, id := range Strings(ids) {
		args = append(args, id)
	}
	text, err := rawReadOnly(ctx, c.admin, "letters", lettersScript, []string{c.deadKey(stream, group)}, args...)
	if err != nil {
		return nil, 0, err
	}
	reply := newReply(text)
	if two, err := reply.array(); err != nil || two != 2 {
		return nil, 0, errors.Join(err, errReply)
	}
	n, err := reply.text()
	if err != nil {
		return nil, 0, err
	}
	if looked, err = strconv.Atoi(n); err != nil || looked < 1 || looked > len(ids) {
		return nil, 0, errors.Join(err, errReply)
	}
	err = reply.entries(func(e Entry, _ bool) { letters = append(letters, e) })
	return letters, looked, err
}

// Requeue moves dead letters to the lane of their group, as the given copies, in one round trip. Each has
// its own result: Done, LeaseLost where it is no dead letter any more, Full, or Unknown. The error is the
// first reason of those that are Unknown.
func (c *Client) Requeue(ctx context.Context, stream, group string, copies []Copy) (settled []Settled, err error) {
	keys := []string{c.streamKey(stream), c.laneKey(stream, group), c.deadKey(stream, group)}
	replies := make([]*redis.Cmd, len(copies))
	_ = pipelined(ctx, c.admin, enqueueScript, func(p redis.Pipeliner) { // the replies say it
		for i, one := range copies {
			m := one.Message
			replies[i] = enqueueScript.EvalSha(ctx, p, keys, group, GroupBound, one.Dead.String(), m.UUID, m.Metadata, m.Payload)
		}
	})
	settled = make([]Settled, len(copies))
	for i, reply := range replies {
		got, replyErr := reply.Int64Slice()
		switch {
		case replyErr == nil && len(got) != 2:
			replyErr = errReply
			fallthrough
		case replyErr != nil:
			settled[i] = Unknown
			if err == nil {
				err = replyErr
			}
		case got[0] == 1:
			settled[i] = Done
		case got[1] == 1:
			settled[i] = LeaseLost
		default:
			settled[i] = Full
		}
	}
	return settled, err
}

// Discard deletes dead letters and returns how many were there.
func (c *Client) Discard(ctx context.Context, stream, group string, ids []ID) (int, error) {
	n, err := c.admin.XDel(ctx, c.deadKey(stream, group), Strings(ids)...).Result()
	return int(n), err
}

// Enqueue puts copies into the lane of a group, in their order, until the lane is full. It returns how many were put there, and how many of
// the copies were looked at: a dead letter that is gone is passed over.
func (c *Client) Enqueue(ctx context.Context, stream, group string, copies []Copy) (done, looked int, err error) {
	args := make([]any, 0, 2+4*len(copies))
	args = append(args, group, GroupBound)
	for _, one := range copies {
		dead := ""
		if !one.Dead.IsZero() {
			dead = one.Dead.String()
		}
		args = append(args, dead, one.Message.UUID, one.Message.Metadata, one.Message.Payload)
	}
	keys := []string{c.streamKey(stream), c.laneKey(stream, group), c.deadKey(stream, group)}
	got, err := enqueueScript.Run(ctx, c.admin, keys, args...).Int64Slice()
	if err != nil {
		return 0, 0, err
	}
	if len(got) != 2 {
		return 0, 0, errReply
	}
	return int(got[0]), int(got[1]), nil
}
