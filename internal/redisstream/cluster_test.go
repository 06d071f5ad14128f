package redisstream

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/redistest"
)

// While a slot is on its way to another shard, a raw command finds its key on either side; and afterwards without a word from anybody.
func TestP27RawCommandsFollowASlotThatMoves(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, false)
	c := New(Config{Redis: cluster.Options(), MaxLen: 1000})
	t.Cleanup(func() { _ = c.Close() })
	stream := cluster.StreamOn(t, 0, "s")
	if _, _, err := c.Append(t.Context(), stream, Writer{Name: "w", Seq: 1}, messagesOf(1, 10)); err != nil {
		t.Fatal(err)
	}
	read := func(when string) {
		t.Helper()
		entries, err := c.Range(t.Context(), stream, ID{}, MaxID, 10, false)
		if err != nil || len(entries) != 1 {
			t.Errorf("%s: %d entries, %v", when, len(entries), err)
		}
	}
	read("before")
	moved := 0
	cluster.MoveSlot(t, stream, cluster.Masters[1], func() { moved++; read("between") })
	if moved < 2 {
		t.Errorf("%d keys were moved: this test proves too little", moved)
	}
	read("after")
}

// Each client of go-redis adds the nodes that it comes to know to the list of addresses it was given.
func TestP27ClientsShareNoAddresses(t *testing.T) {
	t.Parallel()
	given := redis.UniversalOptions{Addrs: append(make([]string, 0, 8), "a", "b")}
	o := options(&given, nil)
	_ = append(o.Addrs, "c")
	if all := given.Addrs[:3]; all[2] != "" || !slices.Equal(o.Addrs, given.Addrs) {
		t.Errorf("the list that was given is %v", all)
	}
}

// An append that gets no answer is sent once: whether it is repeated decides who knows what became of the first time.
func TestP11AppendIsSentOnceInCluster(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, false)
	o := cluster.Options()
	o.ReadTimeout = 200 * time.Millisecond
	c := New(Config{Redis: o, MaxLen: 1000})
	t.Cleanup(func() { _ = c.Close() })
	stream := cluster.StreamOn(t, 0, "s")
	if _, _, err := c.Append(t.Context(), stream, Writer{Name: "w", Seq: 1}, messagesOf(1, 10)); err != nil {
		t.Fatal(err)
	}
	scripts := &argumentsSeen{}
	err := c.appends.(*redis.ClusterClient).ForEachMaster(t.Context(), func(_ context.Context, node *redis.Client) error {
		node.AddHook(scripts)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	cluster.Masters[0].Freeze(t)
	_, _, err = c.Append(t.Context(), stream, Writer{Name: "w", Seq: 2}, messagesOf(1, 10))
	if err == nil || NotSent(err) {
		t.Errorf("got %v", err)
	}
	cluster.Masters[0].Thaw(t)
	if n := len(scripts.seen); n != 1 {
		t.Errorf("it was sent %d times", n)
	}
}
