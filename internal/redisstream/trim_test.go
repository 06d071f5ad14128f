package redisstream

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/redistest"
)

// appendsOf are the ways in which n messages get into a stream.
var appendsOf = map[string]func(context.Context, *Client, uint64, []Message) error{
	"append": func(ctx context.Context, c *Client, seq uint64, messages []Message) error {
		_, _, err := c.Append(ctx, "booking", Writer{Name: "w", Seq: seq}, messages)
		return err
	},
	"once": func(ctx context.Context, c *Client, seq uint64, messages []Message) error {
		seen := make([]Seen, len(messages))
		for i := range seen {
			seen[i] = Seen{Key: fmt.Sprint(seq, "-", i), Window: time.Hour, Print: "p"}
		}
		_, _, err := c.AppendOnce(ctx, "booking", Writer{Name: "w", Seq: seq}, messages, seen)
		return err
	},
	"drain": func(ctx context.Context, c *Client, seq uint64, messages []Message) error {
		done, _, _, err := c.Drain(ctx, "booking", Writer{Name: "w", Seq: seq}, seq-1, messages)
		if err == nil && !done {
			err = fmt.Errorf("append %d was not done", seq)
		}
		return err
	},
}

func messagesOf(n, size int) []Message {
	messages := make([]Message, n)
	for i := range messages {
		messages[i] = Message{UUID: "1", Payload: strings.Repeat("x", size)}
	}
	return messages
}

// reads is what a group has been given of a stream.
type reads struct {
	consumer Consumer
	count    int64
}

func (r *reads) read(t *testing.T, c *Client, count int) {
	t.Helper()
	var refs []Ref
	for _, d := range read(t, c, r.consumer, count) {
		refs = append(refs, d.Ref)
	}
	if len(refs) > 0 {
		if _, _, err := c.Ack(t.Context(), r.consumer, refs); err != nil {
			t.Fatal(err)
		}
	}
	r.count += int64(len(refs))
}

// lostOf returns what is counted as lost by each group.
func lostOf(t *testing.T, c *Client) map[string]int64 {
	t.Helper()
	groups, err := c.Groups(t.Context(), "booking")
	if err != nil {
		t.Fatal(err)
	}
	lost := map[string]int64{}
	for _, g := range groups {
		lost[g.Name] = g.Lost
	}
	return lost
}

// Whatever groups have read when a stream is trimmed: what they were given and what is counted as
// lost is together all there was, and nothing is counted for a group that keeps up, nor for other
// software.
func TestG18TrimCountsWhatEachGroupLoses(t *testing.T) {
	t.Parallel()
	for name, appended := range appendsOf {
		for seed := range uint64(4) {
			t.Run(fmt.Sprint(name, "/", seed), func(t *testing.T) {
				t.Parallel()
				server := redistest.Start(t)
				client := server.Client(t)
				c := New(Config{Redis: server.Options(), MaxLen: 200})
				t.Cleanup(func() { _ = c.Close() })
				random := rand.New(rand.NewPCG(seed, 18))
				groups := map[string]*reads{}
				for _, group := range []string{"fast", "slow", "slower", "never"} {
					groups[group] = &reads{consumer: Consumer{Group: group, Name: "c"}}
					join(t, c, groups[group].consumer)
				}
				client.XGroupCreate(t.Context(), "booking", "theirs", "0")
				accepted := 0
				for seq := uint64(1); accepted < 2000; seq++ {
					n := 1 + random.IntN(150)
					size := []int{10, 300, 5000}[random.IntN(3)] // 100, about ten, or one make a node
					if err := appended(t.Context(), c, seq, messagesOf(n, size)); err != nil {
						t.Fatal(err)
					}
					accepted += n
					groups["fast"].read(t, c, 1000)
					groups["slow"].read(t, c, random.IntN(100)+1)
					if random.IntN(8) == 0 {
						groups["slower"].read(t, c, random.IntN(50)+1)
					}
				}
				if n := client.XLen(t.Context(), "booking").Val(); n >= 300 {
					t.Errorf("%d entries are kept, with a limit of 200", n)
				}
				for group, r := range groups {
					if group != "never" {
						r.read(t, c, 1000)
					}
				}
				got := lostOf(t, c)
				kept := client.XLen(t.Context(), "booking").Val()
				want := map[string]int64{
					"fast": -1, "theirs": -1, // unknown: nothing was ever counted
					"slow":   int64(accepted) - groups["slow"].count,
					"slower": int64(accepted) - groups["slower"].count,
					"never":  int64(accepted) - kept,
				}
				for group, n := range want {
					if got[group] != n {
						t.Errorf("group %s: %d of %d lost, want %d", group, got[group], accepted, n)
					}
				}
				if want["slow"] == 0 || groups["slow"].count == 0 {
					t.Error("the slow group lost nothing or all: this test proves too little")
				}
			})
		}
	}
}

// Entries that are pending when they are trimmed are counted by whoever comes upon them, and only
// so.
func TestG18PendingEntriesAreNotCountedTwice(t *testing.T) {
	t.Parallel()
	server, consumer := redistest.Start(t), Consumer{Group: "g", Name: "c"}
	c := New(Config{Redis: server.Options(), MaxLen: 200})
	t.Cleanup(func() { _ = c.Close() })
	join(t, c, consumer)
	more := func(seq uint64, n int) {
		t.Helper()
		if err := appendsOf["append"](t.Context(), c, seq, messagesOf(n, 10)); err != nil {
			t.Fatal(err)
		}
	}
	more(1, 150)
	pending := read(t, c, consumer, 150)
	if len(pending) != 150 {
		t.Fatal(len(pending))
	}
	more(2, 100)
	more(3, 150) // 200 go, of which 150 are pending
	for _, d := range pending {
		if err := c.Lose(t.Context(), consumer, d.Ref); err != nil {
			t.Fatal(err)
		}
	}
	if lost := lostOf(t, c)["g"]; lost != 200 {
		t.Errorf("%d are lost, want 200", lost)
	}
}

// A stream begins with more than it may keep.
func TestP14FirstAppendMayBeBeyondTheLimit(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for kind, appended := range appendsOf {
		c := New(Config{Redis: server.Options(), Namespace: kind, MaxLen: 20})
		t.Cleanup(func() { _ = c.Close() })
		for seq := range uint64(3) {
			if err := appended(t.Context(), c, seq+1, messagesOf(200, 10)); err != nil {
				t.Errorf("%s: %v", kind, err)
			}
		}
	}
}

// While a stream keeps to its limit an append asks for nothing but its length.
func TestG18WithinTheLimitNothingIsAsked(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := server.Client(t)
	c := New(Config{Redis: server.Options(), MaxLen: 200})
	t.Cleanup(func() { _ = c.Close() })
	join(t, c, Consumer{Group: "g", Name: "c"})
	client.ConfigResetStat(t.Context())
	for seq := range uint64(20) {
		if err := appendsOf["append"](t.Context(), c, seq+1, messagesOf(10, 10)); err != nil {
			t.Fatal(err)
		}
	}
	for _, command := range []string{"xinfo|groups", "xinfo|stream", "xtrim", "xrange", "hexists"} {
		if n := calls(t, client, command); n > 0 {
			t.Errorf("%d calls of %s", n, command)
		}
	}
}

// What is written to the append-only file for a trim is an ID: a length would trim something else
// where the file was damaged.
func TestG18TrimIsReplayedByID(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	client := server.Client(t)
	c := New(Config{Redis: server.Options(), MaxLen: 200})
	t.Cleanup(func() { _ = c.Close() })
	for seq := range uint64(10) {
		if err := appendsOf["append"](t.Context(), c, seq+1, messagesOf(60, 10)); err != nil {
			t.Fatal(err)
		}
	}
	before := client.XRange(t.Context(), "booking", "-", "+").Val()
	server.Restart(t)
	var after []redis.XMessage
	for len(after) == 0 { // connections are made anew
		after = client.XRange(t.Context(), "booking", "-", "+").Val()
	}
	if len(before) >= 300 || len(after) != len(before) || after[0].ID != before[0].ID {
		t.Errorf("%d entries before the restart, %d after it", len(before), len(after))
	}
}

// BenchmarkTrim appends 128 messages of 256 B at a time to a stream at its limit, with 20 groups
// that have read it all.
func BenchmarkTrim(b *testing.B) {
	server := redistest.Start(b)
	client := server.Client(b)
	c := New(Config{Redis: server.Options(), MaxLen: 10_000})
	defer c.Close()
	messages := messagesOf(128, 256)
	for i := range 20 {
		join(b, c, Consumer{Group: fmt.Sprint("g", i), Name: "c"})
	}
	seq := uint64(0)
	more := func(n int) {
		for ; n > 0; n -= len(messages) {
			seq++
			if err := appendsOf["append"](b.Context(), c, seq, messages[:min(len(messages), n)]); err != nil {
				b.Fatal(err)
			}
		}
	}
	more(10_000)
	for i := range 20 {
		client.XGroupSetID(b.Context(), "booking", fmt.Sprint("g", i), "$")
	}
	cpu := serverCPU(b, client)
	b.ResetTimer()
	more(b.N)
	b.StopTimer()
	b.ReportMetric((serverCPU(b, client)-cpu)/float64(b.N), "server-µs/op")
}
