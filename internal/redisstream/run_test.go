package redisstream

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/redistest"
)

func TestG14WhichConnectionIsAnotherRun(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		cluster bool
		ids     string // of the connections, one after the other; a space: unknown
		runs    string // after each
	}{
		"one server":       {ids: "aaaa", runs: "1111"},
		"a restart":        {ids: "aabb", runs: "1122"},
		"there and back":   {ids: "aaba", runs: "1123"},
		"not known":        {ids: "   ", runs: "123"},
		"not known at one": {ids: "a aa", runs: "1222"},
		"nodes":            {cluster: true, ids: "abcabc", runs: "123333"},
		"a new node":       {cluster: true, ids: "ababcb", runs: "122233"},
		"nodes not known":  {cluster: true, ids: "  a ", runs: "1234"},
	} {
		runs := serverRuns{cluster: test.cluster}
		for i := range test.ids {
			id := test.ids[i : i+1]
			if id == " " {
				id = ""
			}
			runs.connected(id)
			if got := runs.current(); got != test.runs[i:i+1] {
				t.Errorf("%s: run %s after connection %d, want %c", name, got, i+1, test.runs[i])
			}
		}
	}
}

// beatRun returns the run of the server that a beat is answered by. A beat whose connection was
// lost is repeated.
func beatRun(t *testing.T, c *Client) string {
	t.Helper()
	consumer := Consumer{Group: "g", Name: "c"}
	for {
		b, err := c.Beat(t.Context(), consumer, "booking", Say{})
		if err == nil {
			return b.Run
		}
		if Classify(err) != Away {
			t.Fatal(err)
		}
	}
}

// userWithout makes a user that has every right but those, and returns how it connects.
func userWithout(t *testing.T, server *redistest.Server, rights ...any) *redis.UniversalOptions {
	t.Helper()
	args := append([]any{"ACL", "SETUSER", "worker", "on", ">secret", "~*", "+@all"}, rights...)
	if err := server.Client(t).Do(t.Context(), args...).Err(); err != nil {
		t.Fatal(err)
	}
	options := server.Options()
	options.Username, options.Password = "worker", "secret"
	return options
}

// A connection that was made anew leads to the same run, whoever closed the last one, until the
// server was started again.
func TestG14OnlyARestartIsAnotherRun(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client, c := server.Client(t), connect(t, server, "")
	first := beatRun(t, c)
	for range 3 {
		if client.ClientKillByFilter(t.Context(), "TYPE", "normal", "SKIPME", "yes").Val() == 0 {
			t.Fatal("no connection was closed")
		}
		if run := beatRun(t, c); run != first {
			t.Fatalf("run %s after a new connection, want %s", run, first)
		}
	}
	server.Restart(t)
	if run := beatRun(t, c); run == first {
		t.Errorf("run %s after a restart: the same", run)
	}
}

// Without the right to INFO each connection that is lost counts, and none is closed by our side,
// whatever the user wants.
func TestG14WithoutInfoALostConnectionIsAnotherRun(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	options := userWithout(t, server, "-info")
	options.ConnMaxLifetime, options.ConnMaxIdleTime = time.Millisecond, time.Millisecond
	c := New(Config{Redis: options, MaxLen: 1000})
	t.Cleanup(func() { _ = c.Close() })
	first := beatRun(t, c)
	for range 10 {
		<-time.After(2 * time.Millisecond) // the life of a connection
		if run := beatRun(t, c); run != first {
			t.Fatalf("run %s, want %s: our side has closed the connection", run, first)
		}
	}
	server.Client(t).ClientKillByFilter(t.Context(), "TYPE", "normal", "SKIPME", "yes")
	if run := beatRun(t, c); run == first {
		t.Errorf("run %s after a lost connection: the same", run)
	}
}

// Whoever beats waits for nobody who reads a history, though the user allows but one connection.
func TestG14HistoryDelaysNoBeat(t *testing.T) {
	t.Parallel()
	server, consumer := redistest.Start(t), Consumer{Group: "g", Name: "c"}
	options := server.Options()
	options.PoolSize, options.PoolTimeout = 1, 100*time.Millisecond
	c := New(Config{Redis: options, MaxLen: 1000})
	t.Cleanup(func() { _ = c.Close() })
	slow := c.admin.(*redis.Client).Conn() // what a history over a slow link has
	defer slow.Close()
	if err := slow.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Range(t.Context(), "booking", ID{}, MaxID, 1, false); err == nil {
		t.Fatal("there is a connection left for a history: this test proves nothing")
	}
	join := Join{Stream: "booking", Patterns: []string{"booking.*"}}
	if _, err := c.Join(t.Context(), consumer, join); err != nil {
		t.Errorf("join: %v", err)
	}
	if _, err := c.Beat(t.Context(), consumer, "booking", Say{}); err != nil {
		t.Errorf("beat: %v", err)
	}
	ref := Ref{Stream: "booking", ID: ID{1, 1}}
	if _, err := c.Renew(t.Context(), consumer, "booking", []Ref{ref}); err != nil {
		t.Errorf("renew: %v", err)
	}
	if _, err := c.Raise(t.Context(), consumer, ref.Stream, []Suspect{{Ref: ref, Count: 1}}); err != nil {
		t.Errorf("suspect: %v", err)
	}
	if err := c.Leave(t.Context(), consumer, "booking"); err != nil {
		t.Errorf("leave: %v", err)
	}
}
