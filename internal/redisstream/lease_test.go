package redisstream

import (
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/redistest"
)

// argumentsSeen is a hook of a client that keeps how many arguments its scripts were given.
type argumentsSeen struct {
	mu   sync.Mutex // guards what follows
	seen []int
}

func (a *argumentsSeen) DialHook(next redis.DialHook) redis.DialHook { return next }

func (a *argumentsSeen) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		a.see(cmds...)
		return next(ctx, cmds)
	}
}

func (a *argumentsSeen) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		a.see(cmd)
		return next(ctx, cmd)
	}
}

func (a *argumentsSeen) see(cmds ...redis.Cmder) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, cmd := range cmds {
		if cmd.Name() == "evalsha" {
			a.seen = append(a.seen, len(cmd.Args()))
		}
	}
}

// A consumer that holds much renews it, and raises and lowers counts, by scripts that look at 200
// deliveries each at most, and hears of all that it has no more.
func TestF12MuchIsRenewedInParts(t *testing.T) {
	t.Parallel()
	c := New(Config{Redis: redistest.Start(t).Options(), MaxLen: 1000})
	t.Cleanup(func() { _ = c.Close() })
	consumer := Consumer{Group: "g", Name: "c"}
	if _, err := c.Join(t.Context(), consumer, Join{Stream: "booking", Patterns: []string{"booking.*"}}); err != nil {
		t.Fatal(err)
	}
	messages := make([]Message, 10)
	if _, _, err := c.Append(t.Context(), "booking", Writer{Name: "w", Seq: 1}, messages); err != nil {
		t.Fatal(err)
	}
	read, err := c.Read(t.Context(), consumer, []string{"booking"}, 10, 0)
	if err != nil || len(read) != 10 {
		t.Fatal(len(read), err)
	}
	var held, taken []Ref
	for i := range 450 {
		if i%45 == 0 {
			held = append(held, read[i/45].Ref)
		}
		taken = append(taken, Ref{Stream: "booking", ID: ID{MS: 1, Seq: uint64(i)}})
	}
	refs := slices.Concat(taken[:225], held, taken[225:])
	suspects := make([]Suspect, len(refs))
	for i, ref := range refs {
		suspects[i] = Suspect{Ref: ref, Count: 1}
	}
	arguments := &argumentsSeen{}
	c.beats.AddHook(arguments)
	for name, run := range map[string]func() ([]Ref, error){
		"renew": func() ([]Ref, error) { return c.Renew(t.Context(), consumer, "booking", refs) },
		"raise": func() ([]Ref, error) { return c.Raise(t.Context(), consumer, "booking", suspects) },
	} {
		if gone, err := run(); err != nil || !slices.Equal(gone, taken) {
			t.Errorf("%s: %d are gone, error %v; want %d", name, len(gone), err, len(taken))
		}
	}
	if err := c.Lower(t.Context(), consumer, "booking", suspects); err != nil {
		t.Error(err)
	}
	if most := slices.Max(arguments.seen); most > 2*200+6 {
		t.Errorf("a script was given %d arguments", most)
	}
	if n := len(arguments.seen); n < 9 {
		t.Errorf("%d scripts were run, want 3 of each kind", n)
	}
}
