package redisstream

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/redistest"
)

// fill makes a stream with two groups and every companion that there can be.
func fill(t *testing.T, c *Client, server redis.UniversalClient, stream string) {
	t.Helper()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	message := Message{UUID: "1", Metadata: "\x80", Payload: "{}"}
	var ids []ID
	for seq := range uint64(3) {
		id, _, err := c.Append(ctx, stream, Writer{Name: "w", Seq: seq + 1}, []Message{message})
		must(err)
		ids = append(ids, id)
	}
	for _, group := range []string{"billing", "a*[b]?{c}"} { // the second is of other software, which may name it as it likes
		consumer := Consumer{Group: group, Name: "c"}
		_, err := c.Join(ctx, consumer, Join{Stream: stream, Patterns: []string{stream + ".*"}})
		must(err)
		_, err = c.Read(ctx, consumer, []string{stream}, 10, time.Millisecond)
		must(err)
		retries := []Retry{
			{Ref: Ref{Stream: stream, ID: ids[0]}, Message: message},
			{Ref: Ref{Stream: stream, ID: ids[1]}, Message: message, Delay: time.Hour},
		}
		settled, err := c.Retry(ctx, consumer, stream, retries)
		must(err)
		waits := []Wait{{Ref: Ref{Stream: stream, ID: ids[2]}, Type: stream + ".created", Message: message}}
		waiting, err := c.LetWait(ctx, consumer, stream, waits, 1)
		must(err)
		settled = append(settled, waiting...)
		if want := []Settled{Done, Done, Done}; !slices.Equal(settled, want) {
			t.Fatalf("retry: got %v, want %v", settled, want)
		}
		must(server.XAdd(ctx, &redis.XAddArgs{Stream: c.deadKey(stream, group), Values: []string{"a", "b"}}).Err())
	}
}

func keys(t *testing.T, server redis.UniversalClient) []string {
	t.Helper()
	found, err := server.Keys(t.Context(), "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(found)
	return found
}

func connect(t *testing.T, server *redistest.Server, namespace string) *Client {
	t.Helper()
	c := New(Config{Redis: server.Options(), Namespace: namespace, MaxLen: 1000})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestRemoveLeavesNothingOfTheStreamAndAllOfOthers(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	admin := server.Client(t)
	c := connect(t, server, "acme")
	fill(t, c, admin, "booking2")
	want := keys(t, admin)
	if len(want) != 14 { // stream, meta, writers, registry, and five for each of two groups
		t.Fatalf("got %q: not every companion is there, so this test proves too little", want)
	}
	fill(t, c, admin, "booking")

	for range 2 { // the second finds nothing to do
		if err := c.Remove(t.Context(), "booking", ""); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, keys(t, admin)); diff != "" {
			t.Errorf("keys, - want, + got:\n%s", diff)
		}
		if streams, err := c.Streams(t.Context()); err != nil || !slices.Equal(streams, []string{"booking2"}) {
			t.Errorf("registry: got %q, %v; want booking2 alone", streams, err)
		}
	}
}

func TestRemoveFindsCompanionsOfAStreamThatIsGone(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	admin := server.Client(t)
	c := connect(t, server, "")
	fill(t, c, admin, "booking")
	if err := admin.Del(t.Context(), "booking").Err(); err != nil {
		t.Fatal(err)
	}
	if err := c.Remove(t.Context(), "booking", ""); err != nil {
		t.Fatal(err)
	}
	if left := keys(t, admin); len(left) > 0 {
		t.Errorf("left: %q, want nothing", left)
	}
}

func TestAppendAfterRemoveEntersTheStreamAgain(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c := connect(t, server, "")
	for seq := range uint64(2) {
		if _, _, err := c.Append(t.Context(), "booking", Writer{Name: "w", Seq: seq + 1}, []Message{{UUID: "1"}}); err != nil {
			t.Fatal(err)
		}
		if streams, err := c.Streams(t.Context()); err != nil || !slices.Equal(streams, []string{"booking"}) {
			t.Errorf("registry: got %q, %v; want booking", streams, err)
		}
		if err := c.Remove(t.Context(), "booking", ""); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRemoveRefusesWhatIsNoStream(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	admin := server.Client(t)
	c := connect(t, server, "")
	if err := admin.Set(t.Context(), "session", "precious", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if err := c.Remove(t.Context(), "session", ""); Classify(err) != Denied {
		t.Errorf("got %v, want it refused", err)
	}
	if got := keys(t, admin); !slices.Equal(got, []string{"session"}) {
		t.Errorf("left: %q, want the key that is no stream", got)
	}
}

func TestRemoveFromCluster(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--cluster-enabled", "yes")
	admin := server.Client(t)
	if err := admin.Do(t.Context(), "CLUSTER", "ADDSLOTSRANGE", 0, 16383).Err(); err != nil {
		t.Fatal(err)
	}
	awaitCluster(t, admin)
	options := server.Options()
	options.IsClusterMode = true
	c := New(Config{Redis: options, Namespace: "acme", MaxLen: 1000})
	t.Cleanup(func() { _ = c.Close() })
	if _, _, err := c.Append(t.Context(), "booking", Writer{Name: "w", Seq: 1}, []Message{{UUID: "1"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Join(t.Context(), Consumer{Group: "billing", Name: "c"}, Join{Stream: "booking"}); err != nil {
		t.Fatal(err)
	}
	if cpu, err := c.CPU(t.Context(), "booking"); err != nil || cpu.Total <= 0 {
		t.Errorf("CPU: got %+v, %v; want some", cpu, err)
	}
	if err := c.Remove(t.Context(), "booking", ""); err != nil {
		t.Fatal(err)
	}
	if left := keys(t, admin); len(left) > 0 {
		t.Errorf("left: %q, want nothing", left)
	}
}

// awaitCluster waits until a server that was given all slots serves them.
func awaitCluster(t *testing.T, server redis.UniversalClient) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		if Classify(server.Get(ctx, "x").Err()) == None {
			return
		}
	}
	t.Fatal("the cluster does not come up")
}
