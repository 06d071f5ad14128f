package redisstream

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/redistest"
)

// calls returns how often the server has run a command.
func calls(tb testing.TB, client redis.UniversalClient, command string) int {
	tb.Helper()
	var n int
	text := client.Info(tb.Context(), "commandstats").Val()
	if _, after, ok := strings.Cut(text, "cmdstat_"+command+":calls="); ok {
		if _, err := fmt.Sscan(after[:strings.IndexByte(after, ',')], &n); err != nil {
			tb.Fatal(err)
		}
	}
	return n
}

// join gives a consumer its place in the group of the stream booking.
func join(tb testing.TB, c *Client, consumer Consumer) {
	tb.Helper()
	j := Join{Stream: "booking", Patterns: []string{"booking.*"}}
	if _, err := c.Join(tb.Context(), consumer, j); err != nil {
		tb.Fatal(err)
	}
}

// add appends a message.
func add(tb testing.TB, c *Client, seq int) {
	tb.Helper()
	w := Writer{Name: "w", Seq: uint64(seq)}
	if _, _, err := c.Append(tb.Context(), "booking", w, []Message{{UUID: "1"}}); err != nil {
		tb.Fatal(err)
	}
}

// read reads entries of the stream booking.
func read(tb testing.TB, c *Client, consumer Consumer, count int) []Delivered {
	tb.Helper()
	read, err := c.Read(tb.Context(), consumer, []string{"booking"}, count, time.Millisecond)
	if err != nil {
		tb.Fatal(err)
	}
	return read
}

// The frontier is the ID just below the oldest pending one, to the last digit of 64 bits, and a
// group that is lost begins there again.
func TestG05FrontierIsTheIDBelowTheOldestPendingOne(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := server.Client(t)
	for _, test := range []struct{ pending, want string }{
		{"0-1", "0-0"},
		{"0-10", "0-9"},
		{"1-0", "0-18446744073709551615"},
		{"1000-0", "999-18446744073709551615"},
		{"110-0", "109-18446744073709551615"},
		{"1800000000000-0", "1799999999999-18446744073709551615"},
		{"1800000000000-7", "1800000000000-6"},
		{"5-9007199254740993", "5-9007199254740992"}, // 2^53+1
		{"5-10000000000000000000", "5-9999999999999999999"},
		{"5-18446744073709551615", "5-18446744073709551614"},
		{"9007199254740993-0", "9007199254740992-18446744073709551615"},
		{"18446744073709551615-0", "18446744073709551614-18446744073709551615"},
	} {
		c := New(Config{Redis: server.Options(), Namespace: redistest.Namespace(t), MaxLen: 1000})
		t.Cleanup(func() { _ = c.Close() })
		key, consumer := c.streamKey("booking"), Consumer{Group: "g", Name: "c"}
		client.Do(t.Context(), "XADD", key, test.pending, "a", "1")
		join(t, c, consumer)
		if n := len(read(t, c, consumer, 1)); n != 1 {
			t.Fatal(n)
		}
		if _, err := c.Beat(t.Context(), consumer, "booking", Say{}); err != nil {
			t.Fatal(err)
		}
		got := client.HGet(t.Context(), c.metaKey("booking"), "frontier:g").Val()
		if got != test.want {
			t.Errorf("%s is pending: the frontier is %s, want %s", test.pending, got, test.want)
		}
		client.XGroupDestroy(t.Context(), key, "g")
		joined, err := c.Join(t.Context(), consumer, Join{Stream: "booking"})
		if err != nil || joined.From.String() != test.want {
			t.Errorf("made again at %s, error %v; want %s", joined.From, err, test.want)
		}
		if groups, err := c.Groups(t.Context(), "booking"); err != nil || groups[0].Lag != 1 {
			t.Errorf("groups %+v, error %v: want the lag known", groups, err)
		}
	}
}

// A frontier that lies beyond the end of the stream is another stream's, however near the two are.
func TestG05FrontierOfAnotherStreamIsKnownByItsLastDigit(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := server.Client(t)
	for _, test := range []struct{ last, frontier, want string }{
		{"5-9007199254740993", "5-9007199254740992", "5-9007199254740992"},
		{"5-9007199254740992", "5-9007199254740993", "0-0"},
		{"9007199254740993-5", "9007199254740992-6", "9007199254740992-6"},
		{"9007199254740992-6", "9007199254740993-5", "0-0"},
		{"10-1", "9-2", "9-2"},
		{"9-2", "10-1", "0-0"},
		{"10-10", "10-9", "10-9"},
	} {
		c := New(Config{Redis: server.Options(), Namespace: redistest.Namespace(t), MaxLen: 1000})
		t.Cleanup(func() { _ = c.Close() })
		client.Do(t.Context(), "XADD", c.streamKey("booking"), test.last, "a", "1")
		client.HSet(t.Context(), c.metaKey("booking"), "frontier:g", test.frontier)
		consumer := Consumer{Group: "g", Name: "c"}
		joined, err := c.Join(t.Context(), consumer, Join{Stream: "booking"})
		if err != nil || joined.From.String() != test.want {
			t.Errorf("stream up to %s, frontier %s: made at %s, error %v; want %s",
				test.last, test.frontier, joined.From, err, test.want)
		}
	}
}

// A healthy group has no record of failures, and its beat only asks whether there is one.
func TestG09BeatOfAHealthyGroupSumsNothingUp(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client, c, consumer := server.Client(t), connect(t, server, ""), Consumer{Group: "g", Name: "c"}
	if _, err := c.Join(t.Context(), consumer, Join{Stream: "booking", Patterns: []string{"booking.*"}}); err != nil {
		t.Fatal(err)
	}
	client.ConfigResetStat(t.Context())
	if b, err := c.Beat(t.Context(), consumer, "booking", Say{}); err != nil || b.Failing {
		t.Fatal(b, err)
	}
	for _, command := range []string{"hgetall", "hkeys", "hlen", "zremrangebyscore"} {
		if n := calls(t, client, command); n > 0 {
			t.Errorf("a beat runs %s %d times", command, n)
		}
	}
	if n := calls(t, client, "hget") + calls(t, client, "hmget"); n > 2 {
		t.Errorf("a beat reads meta %d times, want twice: the frontier, and all else", n)
	}
}

// A beat reads no entry, wherever the oldest pending one stands.
func TestG05BeatReadsNoEntry(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client, c, consumer := server.Client(t), connect(t, server, ""), Consumer{Group: "g", Name: "c"}
	for i := range 10 {
		add(t, c, i+1)
	}
	join(t, c, consumer)
	all := read(t, c, consumer, 10)
	if len(all) != 10 {
		t.Fatal(all)
	}
	client.ConfigResetStat(t.Context())
	for _, d := range all {
		if _, err := c.Beat(t.Context(), consumer, "booking", Say{}); err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.Ack(t.Context(), consumer, []Ref{d.Ref}); err != nil {
			t.Fatal(err)
		}
	}
	for _, command := range []string{"xrange", "xrevrange", "xread"} {
		if n := calls(t, client, command); n > 0 {
			t.Errorf("%d calls of %s in %d beats", n, command, len(all))
		}
	}
}

// strangersHold makes a group of which other software has got n entries, and returns their IDs.
func strangersHold(tb testing.TB, c *Client, client redis.UniversalClient, n int) []string {
	tb.Helper()
	join(tb, c, Consumer{Group: "g", Name: "ours"})
	const fill = `for i = 1, tonumber(ARGV[1]) do redis.call('XADD', KEYS[1], '*', 'a', '1') end
		redis.call('XREADGROUP', 'GROUP', 'g', 'theirs', 'COUNT', ARGV[1], 'STREAMS', KEYS[1], '>')
		return 1`
	for left := n; left > 0; left -= 10_000 {
		keys := []string{c.streamKey("booking")}
		if err := client.Eval(tb.Context(), fill, keys, min(left, 10_000)).Err(); err != nil {
			tb.Fatal(err)
		}
	}
	var ids []string
	for behind := "-"; len(ids) < n; behind = "(" + ids[len(ids)-1] {
		key := c.streamKey("booking")
		for _, m := range client.XRangeN(tb.Context(), key, behind, "+", 10_000).Val() {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

// A call looks at a part of what other software holds, and a later one finds what stands behind it.
func TestG05StrangersLooksAtAPartOfWhatIsPending(t *testing.T) {
	t.Parallel()
	server, ours := redistest.Start(t), Consumer{Group: "g", Name: "ours"}
	client, c := server.Client(t), connect(t, server, "")
	const pending = 10 * strangerScan
	ids := strangersHold(t, c, client, pending)
	old := ids[pending-10]
	age := func(id string) {
		client.Do(t.Context(), "XCLAIM", "booking", "g", "theirs", 0, id, "IDLE", 3_600_000, "JUSTID")
	}
	age(old)
	n := 0
	for {
		n++
		taken, err := c.Strangers(t.Context(), ours, "booking", time.Minute, Most{Entries: 100, Bytes: 1 << 20})
		if err != nil || n > 10 {
			t.Fatalf("the old entry is not found by call %d: %v", n, err)
		}
		if len(taken) > 0 {
			if len(taken) != 1 || taken[0].ID.String() != old {
				t.Errorf("took %v, want %s alone", taken, old)
			}
			break
		}
	}
	if n != 10 {
		t.Errorf("the old entry is found by call %d of 10: one looks at more than %d", n, strangerScan)
	}
	// One at the front is found by the next call, wherever that goes on.
	if _, err := c.Strangers(t.Context(), ours, "booking", time.Minute, Most{Entries: 100, Bytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	age(ids[5])
	taken, err := c.Strangers(t.Context(), ours, "booking", time.Minute, Most{Entries: 100, Bytes: 1 << 20})
	if err != nil || len(taken) != 1 || taken[0].ID.String() != ids[5] {
		t.Errorf("took %v, error %v; want %s", taken, err, ids[5])
	}
}

// More old ones than a call takes are all taken, each once.
func TestG05StrangersTakesAllOfManyOldOnes(t *testing.T) {
	t.Parallel()
	server, ours := redistest.Start(t), Consumer{Group: "g", Name: "ours"}
	client, c := server.Client(t), connect(t, server, "")
	const pending = 2*strangerScan + 50
	strangersHold(t, c, client, pending)
	taken := map[ID]bool{}
	for range 2 * pending / 100 {
		some, err := c.Strangers(t.Context(), ours, "booking", 0, Most{Entries: 100, Bytes: 1 << 20})
		if err != nil || len(some) > 100 {
			t.Fatalf("%d at once, error %v", len(some), err)
		}
		for _, d := range some {
			if taken[d.ID] {
				t.Errorf("%s was taken twice", d.ID)
			}
			taken[d.ID] = true
		}
	}
	if len(taken) != pending {
		t.Errorf("%d of %d were taken", len(taken), pending)
	}
}

// Where no other software is in the group, nothing that is pending is looked at.
func TestG05WithoutStrangersNothingIsLookedAt(t *testing.T) {
	t.Parallel()
	server, ours := redistest.Start(t), Consumer{Group: "g", Name: "ours"}
	client, c := server.Client(t), connect(t, server, "")
	join(t, c, ours)
	for i := range 10 {
		add(t, c, i+1)
	}
	read(t, c, ours, 10)
	client.ConfigResetStat(t.Context())
	if _, err := c.Strangers(t.Context(), ours, "booking", 0, Most{Entries: 100, Bytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	if n := calls(t, client, "xpending"); n > 0 {
		t.Errorf("%d calls of xpending", n)
	}
}

// BenchmarkBeat is a beat in a stream of a million entries, of which the oldest pending one is the
// first, or stands behind one of 1 MiB.
func BenchmarkBeat(b *testing.B) {
	for name, before := range map[string]int{"first": 0, "behind 1 MiB": 1 << 20} {
		b.Run(name, func(b *testing.B) {
			server, consumer := redistest.Start(b), Consumer{Group: "g", Name: "c"}
			client, c := server.Client(b), New(Config{Redis: server.Options(), MaxLen: 2_000_000})
			defer c.Close()
			join(b, c, consumer)
			if before > 0 {
				client.Do(b.Context(), "XADD", "booking", "*", "a", strings.Repeat("x", before))
				large := read(b, c, consumer, 1)[0]
				if _, _, err := c.Ack(b.Context(), consumer, []Ref{large.Ref}); err != nil {
					b.Fatal(err)
				}
			}
			const fill = `for i = 1, 1000000 do redis.call('XADD', KEYS[1], '*', 'a', '1') end
				return 1`
			if err := client.Eval(b.Context(), fill, []string{"booking"}).Err(); err != nil {
				b.Fatal(err)
			}
			read(b, c, consumer, 1)
			cpu := serverCPU(b, client)
			for b.Loop() {
				if _, err := c.Beat(b.Context(), consumer, "booking", Say{}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric((serverCPU(b, client)-cpu)/float64(b.N), "server-µs/op")
		})
	}
}

// BenchmarkStrangers looks for old deliveries among a million that other software has just got.
func BenchmarkStrangers(b *testing.B) {
	server, consumer := redistest.Start(b), Consumer{Group: "g", Name: "ours"}
	client, c := server.Client(b), New(Config{Redis: server.Options(), MaxLen: 2_000_000})
	defer c.Close()
	strangersHold(b, c, client, 1_000_000)
	cpu := serverCPU(b, client)
	for b.Loop() {
		if _, err := c.Strangers(b.Context(), consumer, "booking", time.Hour, Most{Entries: 100, Bytes: 1 << 20}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric((serverCPU(b, client)-cpu)/float64(b.N), "server-µs/op")
}
