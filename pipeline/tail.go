package pipeline

import (
	"context"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"github.com/rishi-platform/millrace/internal/loop"
	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/wire"
)

// tail reads the end of one stream once for all subscriptions of this instance, and hands each entry to all that are attached through
// a gochannel that blocks until each has taken it: so order holds and memory is bounded. It is one gochannel per stream, since a
// gochannel takes a lock over all of its topics: a slow subscriber of one stream would hold up those of others.
type tail struct {
	bus    *Bus
	key    tailKey
	log    streamLog
	fanout *gochannel.GoChannel
	users  int // guarded by Bus.mu
	ctx    context.Context
	cancel context.CancelFunc

	// Of tailLoop alone.
	cursor  spot      // what stands up to here was handed out; its run is not used
	begin   spot      // of the present run: everything behind it belongs to it
	looked  time.Time // at the stream itself
	known   mark
	trouble trouble

	mu        sync.Mutex // guards what follows
	run       int        // counts how often the stream was made anew
	orders    []order    // to be carried out between two reads
	interrupt func()     // ends the read that waits now, so that they are
	listeners int        // subscriptions that are attached
	ended     bool
}

type tailKey struct {
	stream string
	local  bool
}

// spot is how far somebody has got in a stream: what stands up to id was seen. IDs of different runs say nothing about each other.
type spot struct {
	id      redisstream.ID
	run     int
	ordinal int64 // how many entries were ever added up to there, or uncounted
}

// order asks a tail to begin to hand its entries to one more subscription.
type order struct {
	ctx      context.Context // of the attachment
	from     spot
	attached chan attached
}

// attached is the answer: the entries behind upTo come through messages. Those from where the subscription is, up to there, it
// reads by itself.
type attached struct {
	messages <-chan *message.Message
	from     spot
	anew     bool // the stream is another one than that where it was
	upTo     redisstream.ID
}

const (
	tailBlock = redisstream.MaxBlock
	// lookEvery is how often a tail that always has something to read looks whether it misses something.
	lookEvery = 5 * time.Second
)

// follow returns the tail of a stream. The caller holds Bus.mu, and ends its use with unfollow.
func (b *Bus) follow(key tailKey) *tail {
	t := b.tails[key]
	if t == nil {
		t = &tail{bus: b, key: key, log: b.logOf(key), interrupt: func() {}}
		t.trouble = trouble{bus: b, what: "stream", about: []any{"stream", key.stream}}
		t.fanout = gochannel.NewGoChannel(gochannel.Config{BlockPublishUntilSubscriberAck: true, PreserveContext: true}, watermillLogger(b.logger))
		t.ctx, t.cancel = context.WithCancel(b.stopped)
		b.tails[key] = t
		b.loops.Start("tail", t.tailLoop)
	}
	t.users++
	return t
}

func (b *Bus) unfollow(t *tail) {
	b.mu.Lock()
	t.users--
	last := t.users == 0
	if last {
		delete(b.tails, t.key)
	}
	b.mu.Unlock()
	if last {
		t.cancel()
	}
}

func (b *Bus) logOf(key tailKey) streamLog {
	if key.local {
		return b.local
	}
	return b.log
}

// spot returns a place of the present run.
func (t *tail) spot(id redisstream.ID, ordinal int64) spot {
	t.mu.Lock()
	defer t.mu.Unlock()
	return spot{id, t.run, ordinal}
}

// attach asks the loop to hand its entries to a subscription until ctx ends; false when the tail or ctx has ended before. It waits for
// those who are attached already to take the present entry.
func (t *tail) attach(ctx context.Context, from spot) (attached, bool) {
	o := order{ctx: ctx, from: from, attached: make(chan attached, 1)}
	t.mu.Lock()
	if t.ended {
		t.mu.Unlock()
		return attached{}, false
	}
	t.orders = append(t.orders, o)
	t.interrupt()
	t.mu.Unlock()
	select {
	case a, ok := <-o.attached:
		return a, ok
	case <-ctx.Done():
		return attached{}, false
	}
}

// tailLoop reads and fans out until the last subscription has gone. It reads nothing while none is attached: each reads by itself until it
// has caught up.
func (t *tail) tailLoop() {
	defer t.end()
	t.look(false)
	count := firstPage
	for t.ctx.Err() == nil {
		ctx, idle := t.next()
		if idle {
			<-ctx.Done()
			t.look(false)
			t.carryOut()
			continue
		}
		if time.Since(t.looked) > lookEvery {
			t.look(true)
		}
		read, err := t.log.Tail(ctx, map[string]redisstream.ID{t.key.stream: t.cursor.id}, count, tailBlock)
		entries := read[t.key.stream]
		count = nextPage(count, entries)
		for _, entry := range entries {
			t.cursor.saw(entry.ID)
			t.known.saw(entry.ID)
			if err := t.hand(entry); err != nil {
				return
			}
		}
		interrupted := ctx.Err() != nil
		t.carryOut()
		switch {
		case interrupted:
		case err != nil:
			if !t.trouble.wait(t.ctx, t.bus.redisError("read the end of", t.key.stream, err)) {
				return
			}
			t.looked = time.Time{} // who was away may have missed something
		default:
			t.trouble.over()
			if len(entries) == 0 {
				t.look(true)
			}
		}
	}
}

// next returns the ctx of the next read, which has ended already if an order waits, and whether there is nobody to read for.
func (t *tail) next() (ctx context.Context, idle bool) {
	ctx, cancel := context.WithCancel(t.ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.interrupt() // frees what the last one holds
	t.interrupt = cancel
	if len(t.orders) > 0 {
		cancel()
	}
	return ctx, t.listeners == 0
}

// look begins another run where the IDs of the stream have gone back, and tells those who listen what is gone. Who may not ask for that reads on
// all the same.
func (t *tail) look(listening bool) {
	t.looked = time.Now()
	info, err := t.log.Info(t.ctx, t.key.stream)
	if err != nil {
		return
	}
	before := t.cursor.id
	begin, back := t.known.look(info)
	if !back {
		if listening {
			if missed, reason := t.cursor.missed(info); missed != 0 {
				t.tell(t.key.gap(reason, before, missed))
			}
		}
		return
	}
	t.begin = spot{id: begin, ordinal: 0}
	if begin == info.Last {
		t.begin.ordinal = info.EntriesAdded
	}
	t.cursor = t.begin
	t.mu.Lock()
	t.run++
	t.mu.Unlock()
	t.bus.logger.Warn("stream was deleted, or has lost its end; reading goes on with what is new", "stream", t.key.stream, "behind", begin.String())
	if listening {
		t.tell(t.key.gap(GapRecreated, before, uncounted))
	}
}

// carryOut attaches those who asked for it. The first one says where to read on.
func (t *tail) carryOut() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, o := range t.orders {
		messages, err := t.fanout.Subscribe(o.ctx, t.key.stream)
		if err != nil { // it was closed, which end does
			close(o.attached)
			continue
		}
		anew := o.from.run != t.run
		if anew {
			if o.from.id.Compare(t.begin.id) >= 0 {
				o.from = t.begin
			}
			o.from.run, o.from.ordinal = t.run, uncounted
		}
		if t.listeners == 0 {
			t.cursor = o.from
		}
		t.listeners++
		context.AfterFunc(o.ctx, t.detached) // as the gochannel does: who has gone before the answer is not waited for
		o.attached <- attached{messages: messages, from: o.from, anew: anew, upTo: t.cursor.id}
	}
	t.orders = nil
}

func (t *tail) detached() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.listeners--
}

// end closes the fan-out and answers those who asked too late.
func (t *tail) end() {
	t.mu.Lock()
	t.ended = true
	t.interrupt()
	for _, o := range t.orders {
		close(o.attached)
	}
	t.mu.Unlock()
	_ = t.fanout.Close() // it never fails
}

// carried is what a message of the fan-out carries in its context: the entry is decoded once for all subscriptions.
type carried struct {
	spot  spot
	event wire.Decoded
	gap   *Gap // instead of an event
}

type carriedKey struct{}

// hand gives the entry to all subscriptions and waits until each has taken it.
func (t *tail) hand(entry redisstream.Entry) error {
	c := &carried{spot: t.spot(entry.ID, t.cursor.ordinal), event: t.bus.decode(t.key.stream, entry)}
	m := message.NewMessageWithContext(context.WithValue(context.Background(), carriedKey{}, c), c.event.ID, nil)
	return t.fanout.Publish(t.key.stream, m)
}

// tell gives a gap to all subscriptions.
func (t *tail) tell(g *Gap) {
	c := &carried{spot: t.spot(t.cursor.id, t.cursor.ordinal), gap: g}
	m := message.NewMessageWithContext(context.WithValue(context.Background(), carriedKey{}, c), "", nil)
	_ = t.fanout.Publish(t.key.stream, m) // it is closed at the end only
}

// trouble is what keeps a loop from reading. It says so once per kind of error, and once when it is over.
type trouble struct {
	bus     *Bus
	what    string // can't be read
	about   []any  // for the log
	class   redisstream.Class
	backoff loop.Backoff
}

// wait waits after an error, longer each time; false when ctx has ended.
func (t *trouble) wait(ctx context.Context, err error) bool {
	class := redisstream.Classify(err)
	if class == redisstream.Silent {
		t.bus.link.suspect() // it finds out whether that is an outage
		return ctx.Err() == nil
	}
	if class == redisstream.Away && t.bus.link != nil {
		t.bus.link.suspect()
	}
	if class != t.class {
		t.bus.logger.Warn(t.what+" can't be read", append([]any{"err", err}, t.about...)...)
	}
	t.class = class
	return t.backoff.Wait(ctx)
}

func (t *trouble) over() {
	if t.class != redisstream.None {
		t.bus.logger.Info(t.what+" is read again", t.about...)
	}
	t.class = redisstream.None
	t.backoff.Reset()
}
