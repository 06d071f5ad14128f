package pipeline

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/redistest"
)

// What keeps every event out is told by health and by Ready, though Redis answers.
func TestP17HealthTellsThatNothingIsTaken(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		do, undo func(admin redis.UniversalClient) error
		kind     error
		cause    string
	}{
		"out of memory": {
			func(admin redis.UniversalClient) error { return admin.ConfigSet(t.Context(), "maxmemory", "1").Err() },
			func(admin redis.UniversalClient) error { return admin.ConfigSet(t.Context(), "maxmemory", "0").Err() },
			ErrBackPressure, "OOM",
		},
		"no right to append":    {without("-xadd"), without("+xadd"), ErrDenied, "XADD"},
		"no right to a script":  {without("-evalsha"), without("+evalsha"), ErrDenied, "evalsha"},
		"no right to read mark": {without("-hget"), without("+hget"), ErrDenied, "HGET"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			admin := server.Client(t)
			if err := without("~*", "+@all")(admin); err != nil {
				t.Fatal(err)
			}
			options := server.Options()
			options.Username, options.Password = "publisher", "pw"
			b := openBus(t, Config{Redis: options})
			publish(t, b, Event{Type: "booking.created"})
			if h := b.Health(t.Context()); hasProblem(h, problemRefused) || h.Status != StatusHealthy || b.Ready() != nil {
				t.Fatalf("before: %s, %v, %v", h.Status, h.Problems, b.Ready())
			}
			if err := test.do(admin); err != nil {
				t.Fatal(err)
			}
			awaitFact(t, "Ready to tell", func() bool { return errors.Is(b.Ready(), test.kind) })
			h := b.Health(t.Context())
			text := problemText(h, problemRefused)
			if h.Status != StatusUnhealthy || !strings.Contains(text, test.cause) || h.State != StateDurable {
				t.Errorf("status %s, state %s, problem %q", h.Status, h.State, text)
			}
			if len(h.Streams) != 1 {
				t.Errorf("%d streams are described", len(h.Streams))
			}
			if _, err := b.Publish(t.Context(), Event{Type: "booking.created"}); !errors.Is(err, test.kind) {
				t.Errorf("a publish says %v", err)
			}
			if err := test.undo(admin); err != nil {
				t.Fatal(err)
			}
			awaitFact(t, "it to be ready again", func() bool { return b.Ready() == nil })
			publish(t, b, Event{Type: "booking.created"})
			if h := b.Health(t.Context()); hasProblem(h, problemRefused) || h.Status != StatusHealthy {
				t.Errorf("after: %s, %v", h.Status, h.Problems)
			}
			// The checks have stored nothing.
			keys, err := admin.Keys(t.Context(), "*probe*").Result()
			if err != nil || len(keys) > 0 {
				t.Errorf("keys %v, %v", keys, err)
			}
		})
	}
}

// without changes the rights of the user publisher.
func without(rules ...string) func(redis.UniversalClient) error {
	return func(admin redis.UniversalClient) error {
		args := []any{"ACL", "SETUSER", "publisher", "on", ">pw"}
		for _, r := range rules {
			args = append(args, r)
		}
		return admin.Do(context.Background(), args...).Err()
	}
}

// A stream that is refused is a problem until it takes an event.
func TestP17HealthNamesTheStreamThatIsRefused(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	b, client, key := openBus(t, Config{Redis: server.Options(), Namespace: namespace}), server.Client(t), namespace+":order"
	if err := client.Set(t.Context(), key, "x", 0).Err(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := b.Publish(t.Context(), Event{Type: "order.placed"}); !errors.Is(err, ErrDenied) {
			t.Fatal(err)
		}
	}
	publish(t, b, Event{Type: "booking.created"})
	h := b.Health(t.Context())
	if text := problemText(h, problemRefused); !strings.Contains(text, "3 events of stream order") || !strings.Contains(text, "WRONGTYPE") || h.Status != StatusDegraded {
		t.Errorf("%s: %q", h.Status, text)
	}
	if b.Ready() != nil {
		t.Error("others can be published all the same, and it is not ready")
	}
	if err := client.Del(t.Context(), key).Err(); err != nil {
		t.Fatal(err)
	}
	publish(t, b, Event{Type: "order.placed"})
	if h := b.Health(t.Context()); hasProblem(h, problemRefused) {
		t.Errorf("%v", h.Problems)
	}
}

// A server that can't read a script with a first line like ours is named in plain words.
func TestP17OldServerIsNamed(t *testing.T) {
	t.Parallel()
	addr := oldServer(t)
	_, err := Open(t.Context(), Config{Redis: &redis.UniversalOptions{Addrs: []string{addr}}})
	if !errors.Is(err, ErrDenied) || !strings.Contains(fmt.Sprint(err), "redis 7.0 or newer is needed, this is 6.2.14") {
		t.Errorf("got %v", err)
	}
}

// How long events wait for a group, how long its consumers hold them, what it gave up on and who works for
// it are problems from the limits on.
func TestP17HealthHasLimits(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(func(c *Config) {
			c.Health = HealthLimits{LagWarning: time.Millisecond, LagError: time.Hour, PendingWarning: time.Millisecond}
		})
		g := GroupConfig{Group: "billing", Patterns: []string{"booking.*"}}
		_ = consume(t, b, g, AllStreams, newTally().ack).Close()
		publish(t, b, Event{Type: "booking.created"})
		severity := func(code string) string {
			for _, p := range b.Health(t.Context()).Problems {
				if p.Code == code {
					return p.Severity
				}
			}
			return ""
		}
		awaitFact(t, "a warning", func() bool { return severity("group-lag") == SeverityWarning })
		for _, s := range b.Health(t.Context()).Streams {
			if age := s.Groups[0].OldestUndeliveredSeconds; age == nil || *age <= 0 || *age > 60 {
				t.Errorf("the oldest has waited for %v", age)
			}
		}
		b.cfg.Health.LagError = 2 * time.Millisecond
		awaitFact(t, "an error", func() bool { return severity("group-lag") == SeverityError })
		if _, err := b.PauseGroup(t.Context(), "booking", "billing", "a test"); err != nil {
			t.Fatal(err)
		}
		if severity("group-lag") != "" {
			t.Error("the lag of a group that is paused is a problem")
		}
		if _, err := b.ResumeGroup(t.Context(), "booking", "billing"); err != nil {
			t.Fatal(err)
		}

		release := make(chan struct{})
		holds := consume(t, b, g, AllStreams, func(_ *message.Message, d *Delivery) {
			<-release
			d.Settle(&PermanentError{Err: errors.New("no")})
		})
		awaitFact(t, "a delivery that is held", func() bool { return severity("delivery-pending") == SeverityWarning && severity("group-lag") == "" })
		b.cfg.Health.PendingWarning = -1
		if severity("delivery-pending") != "" {
			t.Error("it is told though it was switched off")
		}
		close(release)
		awaitFact(t, "a dead letter that is too much", func() bool { return severity("dead-letters") == SeverityError })
		b.cfg.Health.DeadPercent = 100
		if severity("dead-letters") != SeverityWarning {
			t.Errorf("a dead letter is %q", severity("dead-letters"))
		}
		b.cfg.Health.DeadPercent = -1
		if severity("dead-letters") != "" {
			t.Error("it is told though it was switched off")
		}
		_ = holds.Close()
	})
}

// problemText is the text of the first problem of a code.
func problemText(h Health, code string) string {
	for _, p := range h.Problems {
		if p.Code == code {
			return p.Text
		}
	}
	return ""
}

// oldServer answers as Redis 6.2 does, and returns where it listens.
func oldServer(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	answers := map[string]string{
		"HELLO":   "-ERR unknown command `HELLO`\r\n",
		"EVALSHA": "-NOSCRIPT No matching script. Please use EVAL.\r\n",
		"EVAL":    "-ERR Error compiling script (new function): user_script:1: unexpected symbol near '#' \r\n",
	}
	info := "# Server\r\nredis_version:6.2.14\r\n"
	answers["INFO"] = fmt.Sprintf("$%d\r\n%s\r\n", len(info), info)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for in := bufio.NewReader(conn); ; {
					command, err := readCommand(in)
					if err != nil {
						return
					}
					answer, known := answers[strings.ToUpper(command)]
					if !known {
						answer = "+OK\r\n"
					}
					if _, err := conn.Write([]byte(answer)); err != nil {
						return
					}
				}
			}()
		}
	}()
	return listener.Addr().String()
}

// readCommand reads a command of a client and returns its name.
func readCommand(in *bufio.Reader) (name string, err error) {
	number := func() (n int) {
		var line string
		if line, err = in.ReadString('\n'); err == nil {
			_, err = fmt.Sscanf(line[1:], "%d", &n)
		}
		return n
	}
	for i := range number() {
		word := make([]byte, number()+2)
		if err != nil {
			return "", err
		}
		if _, err = io.ReadFull(in, word); err != nil {
			return "", err
		}
		if i == 0 {
			name = string(word[:len(word)-2])
		}
	}
	return name, err
}

func TestP17HealthNamesTwoVersions(t *testing.T) {
	t.Parallel()
	server, namespace := redistest.Shared(t), redistest.Namespace(t)
	open := func(version string) *Bus {
		return openBus(t, Config{Redis: server.Options(), Namespace: namespace, Version: version})
	}
	old, another, young := open("1.0"), open("1.0"), open("1.1")
	g := GroupConfig{Group: "billing", Patterns: []string{"booking.*"}}
	consume(t, old, g, "booking", newTally().ack)
	consume(t, another, g, "booking", newTally().ack)
	awaitFact(t, "both to have said who they are", func() bool {
		r, err := old.Group(t.Context(), "booking", "billing")
		return err == nil && len(r.Members) == 2 && r.Members[0].Member != nil && r.Members[1].Member != nil
	})
	if text := problemText(old.Health(t.Context()), "two-versions"); text != "" {
		t.Errorf("two instances of one version: %q", text)
	}
	consume(t, young, g, "booking", newTally().ack)
	awaitFact(t, "a warning", func() bool {
		return strings.Contains(problemText(old.Health(t.Context()), "two-versions"), "1.0 (2), 1.1 (1)")
	})
}

// A user who has the keys of some streams only is asked for nothing else.
func TestP17UserWithKeysOfSomeStreams(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	if err := without("~booking", "~{booking}:*", "~millrace:registry:streams", "+@all")(server.Client(t)); err != nil {
		t.Fatal(err)
	}
	options := server.Options()
	options.Username, options.Password = "publisher", "pw"
	b := openBus(t, Config{Redis: options})
	publish(t, b, Event{Type: "booking.created"})
	if h := b.Health(t.Context()); hasProblem(h, problemRefused) || b.Ready() != nil {
		t.Errorf("%s, %v, %v", h.Status, h.Problems, b.Ready())
	}
	if _, err := b.Publish(t.Context(), Event{Type: "order.placed"}); !errors.Is(err, ErrDenied) {
		t.Errorf("a stream of others: %v", err)
	}
	if h := b.Health(t.Context()); !strings.Contains(problemText(h, problemRefused), "stream order") || b.Ready() != nil {
		t.Errorf("%v", h.Problems)
	}
}

// What is new to a group is no lag: it could not take it before.
func TestP17LagBeginsWithTheGroup(t *testing.T) {
	eachBus(t, func(t *testing.T, open func(func(*Config)) *Bus) {
		b := open(func(c *Config) { c.Health = HealthLimits{LagWarning: 2 * time.Second, LagError: 3 * time.Second} })
		publish(t, b, Event{Type: "booking.created"})
		g := GroupConfig{Group: "billing", Patterns: []string{"booking.*"}}
		old := time.Now()
		awaitFact(t, "an event that is old enough", func() bool { return time.Since(old) > 2500*time.Millisecond })
		if _, err := b.initializeGroup(t.Context(), g, "booking"); err != nil {
			t.Fatal(err)
		}
		if text := problemText(b.Health(t.Context()), "group-lag"); text != "" {
			t.Errorf("the group was just made: %s", text)
		}
		awaitFact(t, "a lag", func() bool { return hasProblem(b.Health(t.Context()), "group-lag") })
		if _, err := b.PauseGroup(t.Context(), "booking", "billing", ""); err != nil {
			t.Fatal(err)
		}
		if _, err := b.ResumeGroup(t.Context(), "booking", "billing"); err != nil {
			t.Fatal(err)
		}
		if text := problemText(b.Health(t.Context()), "group-lag"); text != "" {
			t.Errorf("the group was just resumed: %s", text)
		}
	})
}

func TestP17DeadLettersAreHeldAgainstWhatCame(t *testing.T) {
	t.Parallel()
	now := time.Now()
	id := func(ago time.Duration) redisstream.ID { return redisstream.ID{MS: uint64(now.Add(-ago).UnixMilli())} }
	for _, test := range []struct {
		first, last, since time.Duration // ago
		want               int64
	}{
		{30 * time.Minute, time.Minute, time.Hour, 1000},   // all of them
		{10 * time.Hour, 0, time.Hour, 100},                // an even flow
		{3 * time.Hour, 150 * time.Minute, time.Hour, 333}, // none within the hour: those that die now came before
		{10 * time.Hour, 0, 36 * time.Second, 1},           // of a shorter time
	} {
		info := redisstream.StreamInfo{Length: 1000, First: id(test.first), Last: id(test.last)}
		if got := passedSince(info, now.Add(-test.since)); got < test.want-1 || got > test.want+1 {
			t.Errorf("%+v: %d", test, got)
		}
	}
}

// Events that stand in the folder for another Redis are named by a process that has that folder.
func TestP17HealthNamesTheSpoolOfAnotherRedis(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	one := redistest.Start(t)
	one.Kill(t)
	b := openBus(t, Config{Redis: one.Options(), SpoolDir: dir})
	publishSpooled(t, b, Event{Type: "booking.created"})
	closeBus(t, b)
	b = openBus(t, Config{Redis: redistest.Shared(t).Options(), Namespace: "", SpoolDir: dir})
	if text := problemText(b.Health(t.Context()), "spool-of-another-redis"); !strings.Contains(text, dir) {
		t.Errorf("got %q", text)
	}
}
