package redisstream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/redistest"
)

// bury writes dead letters of a size for group g of stream booking, which it makes, and returns their IDs.
func bury(t *testing.T, c *Client, client redis.UniversalClient, n, size int) []ID {
	t.Helper()
	ctx := t.Context()
	if _, err := c.Join(ctx, Consumer{Group: "g", Name: "one"}, Join{Stream: "booking"}); err != nil {
		t.Fatal(err)
	}
	ids := make([]ID, n)
	_, err := client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := range ids {
			ids[i] = ID{MS: 1000, Seq: uint64(i + 1)}
			p.Do(ctx, "XADD", c.deadKey("booking", "g"), ids[i].String(), FieldUUID, fmt.Sprint("e-", i), "payload", strings.Repeat("x", size))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// copiesAt returns the copies of dead letters with the given IDs.
func copiesAt(ids []ID) []Copy {
	copies := make([]Copy, len(ids))
	for i, id := range ids {
		copies[i] = Copy{Dead: id, Message: Message{UUID: id.String()}}
	}
	return copies
}

// Dead letters are read in one round trip, as many as there is room for, and at least one.
func TestG19DeadLettersAreReadInOneTrip(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c := connect(t, server, "")
	ids := bury(t, c, server.Client(t), 10, 1<<10)
	asked := append([]ID{{MS: 1, Seq: 1}}, ids...) // the first is gone
	if _, _, err := c.DeadAt(t.Context(), "booking", "g", ids[:1], 1); err != nil {
		t.Fatal(err) // the server knows the script
	}
	made := &trips{}
	c.admin.AddHook(made)
	for _, test := range []struct{ bytes, letters, looked int }{
		{1 << 20, 10, 11}, {5000, 4, 5}, {100, 1, 2},
	} {
		before := made.count.Load()
		letters, looked, err := c.DeadAt(t.Context(), "booking", "g", asked, test.bytes)
		if err != nil || len(letters) != test.letters || looked != test.looked {
			t.Errorf("within %d bytes: %d letters, %d looked at, error %v; want %d, %d", test.bytes, len(letters), looked, err, test.letters, test.looked)
		}
		for i, letter := range letters {
			if letter.ID != ids[i] {
				t.Errorf("within %d bytes: letter %d is %s, want %s", test.bytes, i, letter.ID, ids[i])
			}
		}
		if n := made.count.Load() - before; n != 1 {
			t.Errorf("within %d bytes: %d round trips, want 1", test.bytes, n)
		}
	}
}

// oneFails makes one command of each pipeline fail, after it was done.
type oneFails struct{ trips }

func (h *oneFails) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		defer h.made()
		err := next(ctx, cmds)
		if len(cmds) > 2 {
			cmds[2].SetErr(errors.New("odd"))
		}
		return err
	}
}

// Dead letters are given back in one round trip, each with its own result: one that is gone or has an
// error keeps back no other.
func TestG19DeadLettersAreRequeuedInOneTrip(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c := connect(t, server, "")
	client := server.Client(t)
	ids := bury(t, c, client, 200, 10)
	if _, err := c.Requeue(t.Context(), "booking", "g", copiesAt([]ID{{MS: 1, Seq: 1}})); err != nil {
		t.Fatal(err) // the server knows the script
	}
	client.XDel(t.Context(), c.deadKey("booking", "g"), ids[1].String())
	made := &oneFails{}
	c.admin.AddHook(made)
	settled, err := c.Requeue(t.Context(), "booking", "g", copiesAt(ids))
	want := make([]Settled, len(ids))
	want[1], want[2] = LeaseLost, Unknown
	if diff := cmp.Diff(want, settled); diff != "" || err == nil || err.Error() != "odd" {
		t.Errorf("error %v, results (- want, + got):\n%s", err, diff)
	}
	if n := made.count.Load(); n != 1 {
		t.Errorf("%d round trips, want 1", n)
	}
	lane := client.XRange(t.Context(), c.laneKey("booking", "g"), "-", "+").Val()
	dead := client.XLen(t.Context(), c.deadKey("booking", "g")).Val()
	if len(lane) != 199 || dead != 0 || lane[0].Values[FieldUUID] != ids[0].String() {
		t.Errorf("%d in the lane, %d dead letters, want 199 and none", len(lane), dead)
	}
}
