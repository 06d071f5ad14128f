package redisstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// GroupBound is the most entries that the lane or the deferred set of a group may hold.
	GroupBound = 100_000
	// UnhandledTypes is of how many types a group counts the events that it did not take. Those of
	// further types are counted together, under UnhandledOthers.
	UnhandledTypes  = 1000
	UnhandledOthers = "*"
	// promoteEntries and promoteBytes bound what one step moves from the deferred set to the lane.
	promoteEntries = 200
	promoteBytes   = 4 << 20
	// peersMargin is how much later than BeatEvery the next beat of a peer may be due that is reported
	// without being asked for: clocks and round trips of those that beat each BeatEvery are not exact.
	peersMargin = 100 * time.Millisecond
)

// Join makes the group and its lane where they are missing, adds to what the group takes, and beats for the first time.
func (c *Client) Join(ctx context.Context, consumer Consumer, j Join) (Joined, error) {
	// A registry that was lost comes back with the group. Under OOM it has to wait: a consumer that can't join could never free anything.
	if err := c.registerNow(ctx, c.targets.of(c, j.Stream)); err != nil && Classify(err) != BackPressure {
		return Joined{}, err
	}
	start := j.From.String()
	if j.FromEnd {
		start = "$"
	}
	args := []any{consumer.Group, consumer.Name, start, BeatEvery.Milliseconds()}
	for _, p := range j.Patterns {
		args = append(args, p)
	}
	keys := []string{c.streamKey(j.Stream), c.laneKey(j.Stream, consumer.Group), c.metaKey(j.Stream), c.aliveKey(j.Stream, consumer.Group)}
	got, err := c.batches.run(ctx, joinScript, keys, args...).Slice()
	if err != nil {
		return Joined{}, err
	}
	var joined Joined
	if joined.Patterns, err = patternsFrom(got); err != nil {
		return Joined{}, err
	}
	if from, _ := got[2].(string); from != "" {
		joined.Made = true
		joined.From, _ = ParseID(from) // not "$": then there was nothing before
	}
	if len(got) > 3 {
		joined.Paused, _ = got[3].(string)
	}
	return joined, nil
}

// patternsFrom reads version and set of patterns, with which the result of join begins.
func patternsFrom(got []any) (Patterns, error) {
	if len(got) < 3 {
		return Patterns{}, errReply
	}
	version, ok := got[0].(int64)
	set, ok2 := got[1].(string)
	if !ok || !ok2 {
		return Patterns{}, errReply
	}
	return Patterns{Set: strings.Fields(set), Version: version}, nil
}

// StreamsPerRead is how many streams one Read may name, each with its lane: the more, the fewer connections a process
// holds that follows many. In Cluster the streams stand in different slots.
func (c *Client) StreamsPerRead() int {
	if _, cluster := c.blocking.(*redis.ClusterClient); cluster {
		return 1
	}
	return 64
}

// Read hands out up to count entries of each stream and of its lane that no consumer of the group has got yet; it waits up to
// block for the first.
func (c *Client) Read(ctx context.Context, consumer Consumer, streams []string, count int, block time.Duration) ([]Delivered, error) {
	command := []any{"XREADGROUP", "GROUP", consumer.Group, consumer.Name, "COUNT", count}
	keys := []any{"STREAMS"}
	refs := make(map[string]Ref, 2*len(streams))
	for _, stream := range streams {
		for _, ref := range []Ref{{Stream: stream}, {Stream: stream, Lane: true}} {
			key := c.sourceKey(ref, consumer.Group)
			refs[key] = ref
			keys = append(keys, key)
		}
	}
	for range 2 * len(streams) {
		keys = append(keys, ">")
	}
	text, err := c.readBlocking(ctx, block, command, keys)
	if err != nil {
		return nil, err
	}
	return delivered(text, refs)
}

// delivered reads the reply of XREADGROUP.
func delivered(text string, refs map[string]Ref) ([]Delivered, error) {
	read := make([]Delivered, 0, strings.Count(text, FieldUUID)) // about right
	err := newReply(text).streams(func(key string, e Entry, gone bool) {
		ref := refs[key]
		ref.ID = e.ID
		read = append(read, Delivered{Ref: ref, Entry: e, Gone: gone})
	})
	return read, err
}

// ReadInTurn hands out up to count entries in all of the streams and their lanes, in that order, that no
// consumer of the group has got yet. It does not wait.
func (c *Client) ReadInTurn(ctx context.Context, consumer Consumer, streams []string, count int) ([]Delivered, error) {
	keys := make([]string, 0, 2*len(streams))
	refs := make(map[string]Ref, 2*len(streams))
	for _, stream := range streams {
		for _, ref := range []Ref{{Stream: stream, Lane: true}, {Stream: stream}} {
			key := c.sourceKey(ref, consumer.Group)
			refs[key] = ref
			keys = append(keys, key)
		}
	}
	text, err := rawScript(ctx, c.groups, readScript, keys, consumer.Group, consumer.Name, count)
	if err != nil {
		return nil, err
	}
	return delivered(text, refs)
}

// Held names up to count deliveries of a stream, and as many of its lane, that are pending with this
// consumer, those behind the given IDs, and says how often each was delivered. XREADGROUP would count
// them as delivered once more, and the count tells who was running when a process died (see suspect.lua).
func (c *Client) Held(ctx context.Context, consumer Consumer, stream string, behind, laneBehind ID, count int) ([]Delivered, error) {
	var pending [2]*redis.XPendingExtCmd
	_, err := c.groups.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, of := range []struct {
			key    string
			behind ID
		}{{c.streamKey(stream), behind}, {c.laneKey(stream, consumer.Group), laneBehind}} {
			pending[i] = p.XPendingExt(ctx, &redis.XPendingExtArgs{
				Stream: of.key, Group: consumer.Group, Consumer: consumer.Name, Start: "(" + of.behind.String(), End: "+", Count: int64(count),
			})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var held []Delivered
	for i, of := range pending {
		for _, p := range of.Val() {
			id, err := ParseID(p.ID)
			if err != nil {
				return nil, errors.Join(errReply, err)
			}
			held = append(held, Delivered{Ref: Ref{Stream: stream, Lane: i == 1, ID: id}, Count: int(p.RetryCount)})
		}
	}
	return held, nil
}

// Load returns the entries of deliveries; one whose entry is not there any more is Gone.
func (c *Client) Load(ctx context.Context, group string, refs []Ref) ([]Delivered, error) {
	replies := make([]*redis.RawCmd, len(refs))
	_, err := c.groups.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, ref := range refs {
			id := ref.ID.String()
			replies[i] = redis.NewRawCmd(ctx, "XRANGE", c.sourceKey(ref, group), id, id)
			_ = p.Process(ctx, replies[i])
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	loaded := make([]Delivered, len(refs))
	for i, ref := range refs {
		if loaded[i], err = loadedFrom(ref, textOf(replies[i].Val())); err != nil {
			return nil, err
		}
	}
	return loaded, nil
}

// loadedFrom reads the entry of a delivery from the reply of XRANGE. One that can't be read must not keep
// back those that are loaded with it.
func loadedFrom(ref Ref, text string) (Delivered, error) {
	d := Delivered{Ref: ref, Gone: true}
	err := newReply(text).entries(func(e Entry, gone bool) { d.Entry, d.Gone = e, gone })
	if errors.Is(err, errReply) {
		d.Entry, d.Gone = unreadable(ref.ID, text), false
		err = nil
	}
	return d, err
}

// Ack settles deliveries as handled. It returns those that are settled, also because their group is gone, and those that may not
// be, with the first reason: each key has its own result.
func (c *Client) Ack(ctx context.Context, consumer Consumer, refs []Ref) (settled, left []Ref, err error) {
	byKey := map[string][]Ref{}
	keys := map[Ref]string{} // by stream and lane
	for _, ref := range refs {
		source := Ref{Stream: ref.Stream, Lane: ref.Lane}
		key, known := keys[source]
		if !known {
			key = c.sourceKey(ref, consumer.Group)
			keys[source] = key
			byKey[key] = make([]Ref, 0, len(refs))
		}
		byKey[key] = append(byKey[key], ref)
	}
	replies := make(map[string]*redis.Cmd, len(byKey))
	_ = pipelined(ctx, c.groups, ackScript, func(pipe redis.Pipeliner) { // the replies say it
		for key, refs := range byKey {
			if refs[0].Lane {
				args := appendIDs(append(make([]any, 0, 1+len(refs)), consumer.Group), refs)
				replies[key] = ackScript.EvalSha(ctx, pipe, []string{key}, args...)
			} else {
				args := append(make([]any, 0, 3+len(refs)), "XACK", key, consumer.Group)
				replies[key] = pipe.Do(ctx, appendIDs(args, refs)...)
			}
		}
	})
	for key, refs := range byKey {
		switch replyErr := replies[key].Err(); {
		case replyErr == nil, Classify(replyErr) == Lost, redis.HasErrorPrefix(replyErr, "WRONGTYPE"): // what stood there is gone
			settled = append(settled, refs...)
		default:
			left = append(left, refs...)
			if err == nil {
				err = replyErr
			}
		}
	}
	return settled, left, err
}

// appendIDs appends the IDs as arguments: pointers to the parts of one string, which costs a few allocations however many there are.
func appendIDs(args []any, refs []Ref) []any {
	ids := make([]ID, len(refs))
	for i := range refs {
		ids[i] = refs[i].ID
	}
	texts := Strings(ids)
	for i := range texts {
		args = append(args, &texts[i])
	}
	return args
}

// pipelined runs commands in one round trip and returns the first error. Where the server does not know the script yet, it is loaded and
// all are sent again: each command of ours does nothing when it is repeated.
func pipelined(ctx context.Context, client redis.UniversalClient, script *redis.Script, fill func(redis.Pipeliner)) error {
	send := func() ([]redis.Cmder, error) {
		return client.Pipelined(ctx, func(p redis.Pipeliner) error { fill(p); return nil })
	}
	cmds, err := send()
	if slices.ContainsFunc(cmds, func(cmd redis.Cmder) bool { return redis.HasErrorPrefix(cmd.Err(), "NOSCRIPT") }) {
		if err := loadScript(ctx, client, script); err != nil {
			return err
		}
		_, err = send()
	}
	return err
}

// Retry settles each delivery, all of one stream, by a copy that arrives later. Each has its own result; the error is the first reason
// of those that are Unknown.
func (c *Client) Retry(ctx context.Context, consumer Consumer, stream string, rs []Retry) (settled []Settled, err error) {
	replies := make([]*redis.Cmd, len(rs))
	_ = pipelined(ctx, c.groups, retryScript, func(p redis.Pipeliner) { // the replies say it
		for i, r := range rs {
			keys := []string{
				c.sourceKey(r.Ref, consumer.Group), c.laneKey(stream, consumer.Group), c.deferredKey(stream, consumer.Group),
				c.flowKey(stream, consumer.Group), c.failedKey(stream, consumer.Group),
			}
			replies[i] = retryScript.EvalSha(ctx, p, keys, consumer.Group, consumer.Name, r.ID.String(), flag(r.Lane), r.Delay.Milliseconds(), GroupBound,
				r.Message.UUID, r.Message.Metadata, r.Message.Payload, r.Failure.Print, r.Failure.Event)
		}
	})
	settled = make([]Settled, len(rs))
	for i, reply := range replies {
		n, replyErr := reply.Int()
		switch {
		case replyErr == nil:
			settled[i] = Settled(n)
		case Classify(replyErr) == Lost:
			settled[i] = LeaseLost // with its group
		default:
			settled[i] = Unknown
			if err == nil {
				err = replyErr
			}
		}
	}
	return settled, err
}

// Skip settles deliveries, all of one stream, whose types are outside of the group's patterns of this version, and counts them.
func (c *Client) Skip(ctx context.Context, consumer Consumer, stream string, skips []Skip, version int64) (Settled, error) {
	for _, lane := range []bool{false, true} {
		args := []any{consumer.Group, consumer.Name, version, flag(lane), UnhandledTypes}
		for _, s := range skips {
			if s.Lane == lane {
				args = append(args, s.ID.String(), s.Type)
			}
		}
		if len(args) == 5 {
			continue
		}
		keys := []string{c.sourceKey(Ref{Stream: stream, Lane: lane}, consumer.Group), c.metaKey(stream)}
		n, err := skipScript.Run(ctx, c.groups, keys, args...).Int()
		if err != nil || n != int(Done) {
			return Settled(n), err
		}
	}
	return Done, nil
}

func flag(on bool) int {
	if on {
		return 1
	}
	return 0
}

// Beat tells the group of one stream that this consumer lives and what it says of itself, moves what is due and was forgotten from the
// deferred set to the lane, records the frontier of the group, and reports on it.
func (c *Client) Beat(ctx context.Context, consumer Consumer, stream string, say Say) (Beat, error) {
	keys := []string{c.aliveKey(stream, consumer.Group), c.metaKey(stream), c.deferredKey(stream, consumer.Group), c.laneKey(stream, consumer.Group),
		c.waitingKey(stream, consumer.Group), c.streamKey(stream), c.flowKey(stream, consumer.Group)}
	read := ""
	if !say.Read.IsZero() {
		read = say.Read.String()
	}
	args := []any{
		consumer.Group, consumer.Name, cmp.Or(say.Next, BeatEvery).Milliseconds(), say.bits(), say.About, say.Patterns, read,
		flag(say.AllPeers), (BeatEvery + peersMargin).Milliseconds(), promoteEntries, promoteBytes, GroupBound,
	}
	got, err := c.batches.run(ctx, beatScript, keys, args...).Slice()
	if err != nil {
		return Beat{}, err
	}
	return beatFrom(got, c.runs.current())
}

// beatFrom reads the result of beat.lua.
func beatFrom(got []any, run string) (b Beat, err error) {
	const parts = 10 // before the peers
	if len(got) < parts {
		return Beat{}, errReply
	}
	number := func(i int) int64 {
		n, ok := got[i].(int64)
		if !ok {
			err = errReply
		}
		return n
	}
	b = Beat{
		Run: run, Waiting: number(3), Failing: number(4) == 1,
		Unknown: number(5) == 1, Pending: number(6), Strangers: number(7) == 1, Members: int(number(8)),
	}
	b.Full = b.Waiting >= GroupBound
	b.Patterns.Version = number(0)
	set, _ := got[1].(string)
	b.Patterns.Set = strings.Fields(set)
	b.Paused, _ = got[2].(string)
	now := number(9)
	for i := parts; i+1 < len(got); i += 2 {
		name, _ := got[i].(string)
		score, _ := got[i+1].(string)
		beat, scoreErr := strconv.ParseInt(score, 10, 64)
		if scoreErr != nil {
			return Beat{}, fmt.Errorf("beat of %s: %w", name, scoreErr)
		}
		b.Peers = append(b.Peers, Peer{Name: name, Beat: beat, Due: time.Duration(beat-now) * time.Millisecond})
	}
	return b, err
}

// Promote moves what is due from the deferred set of a group to its lane, as much at a time as does not
// hold the server up: a few milliseconds.
func (c *Client) Promote(ctx context.Context, stream, group string) (Promoted, error) {
	keys := []string{c.deferredKey(stream, group), c.laneKey(stream, group)}
	got, err := c.batches.run(ctx, promoteScript, keys, promoteEntries, promoteBytes, GroupBound).Int64Slice()
	if err != nil {
		return Promoted{}, err
	}
	if len(got) < 2 {
		return Promoted{}, errReply
	}
	return Promoted{Moved: int(got[0]), Next: time.Duration(got[1]) * time.Millisecond}, nil
}

// maxWaiting is the most types that a report names.
const maxWaiting = 64

// Waiting names the types of which events wait for a consumer that handles them, and since when the oldest does.
func (c *Client) Waiting(ctx context.Context, stream, group string) (map[string]time.Time, error) {
	keys := []string{c.waitingKey(stream, group)}
	return waitingSince(waitingScript.Run(ctx, c.admin, keys, maxWaiting))
}

// waitingSince reads the answer of waiting.lua.
func waitingSince(reply *redis.Cmd) (map[string]time.Time, error) {
	got, err := reply.StringSlice()
	if err != nil {
		return nil, err
	}
	waiting := make(map[string]time.Time, len(got)/2)
	for i := 0; i+1 < len(got); i += 2 {
		ms, err := strconv.ParseInt(got[i+1], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("since when %s waits: %w", got[i], err)
		}
		waiting[got[i]] = time.UnixMilli(ms)
	}
	return waiting, nil
}

// Fetch hands up to count events that wait for a consumer of one of the types to this one.
func (c *Client) Fetch(ctx context.Context, consumer Consumer, stream string, types []string, count int) ([]Delivered, error) {
	args := []any{consumer.Group, consumer.Name, count}
	for _, t := range types {
		args = append(args, t)
	}
	keys := []string{c.waitingKey(stream, consumer.Group), c.laneKey(stream, consumer.Group)}
	got, err := fetchScript.Run(ctx, c.groups, keys, args...).Slice()
	if err != nil {
		return nil, err
	}
	fetched := make([]Delivered, 0, len(got))
	var first error
	for _, item := range got {
		entry, _ := item.([]any)
		d, err := handedOver(stream, true, entry)
		if err == nil {
			fetched = append(fetched, d)
		} else if first == nil {
			first = err
		}
	}
	return fetched, first
}

// TakeOver moves some deliveries of the peer to this consumer if the peer's beat is still the given one, and forgets the peer
// when it holds none any more.
func (c *Client) TakeOver(ctx context.Context, consumer Consumer, stream string, p Peer, most Most) ([]Delivered, error) {
	keys := []string{c.streamKey(stream), c.laneKey(stream, consumer.Group), c.aliveKey(stream, consumer.Group), c.metaKey(stream)}
	got, err := takeOverScript.Run(ctx, c.groups, keys, consumer.Group, consumer.Name, p.Name, p.Beat, most.Entries, most.Bytes).Slice()
	if err != nil {
		return nil, err
	}
	return allTakenOver(stream, got)
}

// allTakenOver reads what a script has taken over. An item that can't be read keeps back no other; the
// error is that of the first one.
func allTakenOver(stream string, items []any) (taken []Delivered, first error) {
	taken = make([]Delivered, 0, len(items))
	for _, item := range items {
		d, err := takenOver(stream, item)
		if err == nil {
			taken = append(taken, d)
		} else if first == nil {
			first = err
		}
	}
	return taken, first
}

func takenOver(stream string, item any) (Delivered, error) {
	parts, ok := item.([]any)
	if !ok || len(parts) == 0 {
		return Delivered{}, errReply
	}
	lane, ok := parts[0].(int64)
	if !ok {
		return Delivered{}, errReply
	}
	d, err := handedOver(stream, lane == 1, parts[1:])
	d.Claimed = true
	if len(parts) > 3 {
		count, _ := parts[3].(int64)
		d.Count = int(count)
	}
	return d, err
}

// handedOver reads ID and fields of an entry that a script answered; without fields it is gone.
func handedOver(stream string, lane bool, parts []any) (Delivered, error) {
	if len(parts) == 0 {
		return Delivered{}, errReply
	}
	text, _ := parts[0].(string)
	id, err := ParseID(text)
	if err != nil {
		return Delivered{}, errors.Join(errReply, err)
	}
	d := Delivered{Ref: Ref{Stream: stream, Lane: lane, ID: id}, Entry: Entry{ID: id}, Gone: true}
	if len(parts) > 1 {
		values, ok := parts[1].([]any)
		d.Gone = !ok
		fields := make([]string, len(values))
		for i := range values {
			fields[i], _ = values[i].(string)
		}
		d.Entry = NewEntry(id, fields)
	}
	return d, nil
}

// Leave marks this consumer as gone; what it still holds may be taken over at once, at no cost of an attempt.
func (c *Client) Leave(ctx context.Context, consumer Consumer, stream string) error {
	keys := []string{c.streamKey(stream), c.laneKey(stream, consumer.Group), c.aliveKey(stream, consumer.Group), c.metaKey(stream)}
	return c.batches.run(ctx, leaveScript, keys, consumer.Group, consumer.Name).Err()
}
