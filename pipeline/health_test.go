package pipeline

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/redistest"
)

// Many streams with many groups are described over a link of 20 ms, with all that there is to say
// of each group.
func TestG19HealthKnowsEveryGroupOverASlowLink(t *testing.T) {
	t.Parallel()
	const streams, groups = 50, 20
	namespace := redistest.Namespace(t)
	_, err := redistest.Shared(t).Client(t).Pipelined(t.Context(), func(p redis.Pipeliner) error {
		for i := range streams {
			key := fmt.Sprintf("%s:stream%d", namespace, i)
			p.SAdd(t.Context(), namespace+":millrace:registry:streams", fmt.Sprint("stream", i))
			p.XAdd(t.Context(), &redis.XAddArgs{Stream: key, Values: []string{"a", "1"}})
			for j := range groups {
				p.XGroupCreate(t.Context(), key, fmt.Sprint("g", j), "0")
				p.HSet(t.Context(), "{"+key+"}:meta", fmt.Sprintf("patterns:g%d", j), "booking.*")
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	b, proxy := behind(t, namespace)
	proxy.Delay(10 * time.Millisecond) // each way
	// The server is that of other tests as well: while it has much to do a report may be a part.
	awaitFact(t, "a report with all streams and groups", func() bool {
		h := b.Health(t.Context())
		idle := 0
		for _, p := range h.Problems {
			if p.Code == "group-without-consumer" {
				idle++
			}
		}
		return len(h.Streams) == streams && idle == streams*groups && !hasProblem(h, "streams-unknown")
	})
}

// halfDescribed is a transport that finds out only a part.
type halfDescribed struct {
	transport
	missing map[string]redisstream.Description
}

func (h halfDescribed) Describe(ctx context.Context, streams []string) []redisstream.Description {
	described := h.transport.Describe(ctx, streams)
	for i, d := range described {
		if instead, ok := h.missing[d.Stream]; ok {
			described[i] = instead
		}
	}
	return described
}

// A part of the answers is told as such: what is known is there, and what is not has a name.
func TestG19HealthNamesWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	b := openBus(t, Config{})
	for _, stream := range []string{"aaa", "bbb", "ccc"} {
		publish(t, b, Event{Type: stream + ".made"})
		g := GroupConfig{Group: "g", Patterns: []string{stream + ".*"}}
		_ = consume(t, b, g, AllStreams, newTally().ack).Close()
		publish(t, b, Event{Type: stream + ".made"})
	}
	half := b.log.Describe(t.Context(), []string{"bbb"})[0]
	half.Err = errors.New("out of time")
	b.log = halfDescribed{b.log, map[string]redisstream.Description{
		"aaa": {Stream: "aaa", Err: errors.New("out of time")},
		"bbb": half,
	}}
	h := b.Health(t.Context())
	told := map[string]int{}
	for _, p := range h.Problems {
		told[p.Code]++
		for _, part := range []string{"2 of 3", "aaa, bbb:", "out of time"} {
			if p.Code == "streams-unknown" && !strings.Contains(p.Text, part) {
				t.Errorf("it says %q, without %q", p.Text, part)
			}
		}
	}
	if len(h.Streams) != 2 || told["streams-unknown"] != 1 || told["group-without-consumer"] != 2 {
		t.Errorf("%d streams, problems %v", len(h.Streams), told)
	}
}

func TestG19NamesOfManyStreamsAreCut(t *testing.T) {
	t.Parallel()
	streams := strings.Fields(strings.Repeat("s ", maxNamed))
	if got, want := named(streams), strings.Repeat("s, ", maxNamed-1)+"s"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	streams = append(streams, "a", "b")
	if got, want := named(streams), strings.Repeat("s, ", maxNamed-1)+"s and 2 more"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
