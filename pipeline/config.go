package pipeline

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"time"

	"github.com/redis/go-redis/v9"
)

// Config is what a bus is opened with. The zero value is a bus in memory.
type Config struct {
	// Redis says where the server is. Nil: memory only. The bus makes its own clients from it (append, blocking, admin) and
	// closes them; timeouts and pool sizes that are zero get the bus's defaults. It talks to masters only: ReadOnly, RouteByLatency and
	// RouteRandomly are ignored.
	Redis *redis.UniversalOptions
	// Namespace is the prefix of every key, 1 to 64 of [A-Za-z0-9._-]. Default: none.
	Namespace string
	// Service is the source of the events that name none, and part of the consumer names. Default: "millrace".
	Service string
	// Version is that of the service, shown in health. Default: none.
	Version string
	// SpoolDir is the folder for events that are accepted while Redis is away. A process takes a slot of its own in it, with what a dead one
	// left there. Default: no spool; Publish fails with ErrUnavailable while Redis is away.
	SpoolDir string
	// SpoolBytes is the most that the spool may take on disk; beyond it Publish fails with ErrSpoolFull. Default: 1 GiB.
	SpoolBytes int64
	// Fallback says what the groups of this process do with events that are accepted while Redis is away. Local needs SpoolDir. Default: Wait;
	// that of OpenFromEnv is Local where there is a spool.
	Fallback Fallback
	// RestoreEvents is how many of the events that Redis has confirmed last are kept per stream, 16 MiB at most and 64 MiB of all streams, so that what
	// it forgets of them (a restart without its last writes, a failover, a flush) can be named and appended again. What it loses beyond is counted as
	// "at least". Default: 10,000.
	RestoreEvents int
	// NoRestore names and counts what Redis forgets, but does not append it again.
	NoRestore bool
	// NoPublish is for what only looks: the bus refuses to publish, and to consume in a group, and asks of Redis nothing that a reader
	// can't have. So it opens with a user who may only read, at a replica, and at a server that is out of memory. Needs RedisOnly.
	NoPublish bool
	// RedisOnly makes the bus keep nothing itself: no spool, no memory of recent events, no local events.
	RedisOnly bool

	// MaxLen is the number of events that a stream keeps. Default: 100,000. The memory keeps to it; in Redis nothing trims a
	// stream to it yet.
	MaxLen int64
	// HardMaxLen is the number above which a stream is cut whatever was read. Default: 10 × MaxLen. In Redis each append cuts
	// at about twice this, as an emergency stop.
	HardMaxLen int64
	// LocalMaxLen is the number of events per stream that the memory of this process keeps: the whole stream where there is no
	// Redis, the recent events of this instance otherwise. Default: MaxLen without Redis, 1,000 with it.
	LocalMaxLen int

	// MaxDataBytes bounds the data of one event. Default: 1 MiB.
	MaxDataBytes int
	// MaxMetadataBytes bounds all else of one event. Default: 16 KiB.
	MaxMetadataBytes int

	// Writers is the number of appends that may be under way at once; a subject always takes the same one. Default: 4.
	Writers int
	// QueueEvents bounds the events that wait in front of one writer; a publish beyond it waits for room until its ctx
	// ends (ErrBackPressure). Default: 16,384.
	QueueEvents int
	// QueueBytes bounds the bytes of those events likewise: payloads, metadata and IDs. One event that is
	// larger has room in an empty queue. Default: 32 MiB.
	QueueBytes int64
	// OutageAfter is how long a publish is repeated while Redis is away before it fails. Default: 5 s.
	OutageAfter time.Duration

	// Health says from when on health calls something a problem.
	Health HealthLimits

	// OneShot is for a process that publishes a few events and ends, as a command does: Redis remembers its last appends for 10 minutes after each, not for
	// 30 days. A hundred bytes per stream and process would come to gigabytes where one is started ten times a second. Contradicts SpoolDir.
	OneShot bool
	// Announce publishes system.service.started when the bus is open, and system.service.stopping when Close begins: who it is, and since
	// when. OpenFromEnv does so.
	Announce bool
	// Hooks are called at the turning points of an event's life.
	Hooks Hooks
	// Logger gets a line per change of state, not per retry. Default: slog.Default().
	Logger *slog.Logger
}

var nameRule = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// CheckName returns an error that says what is wrong with the name of a group, consumer or namespace, nil if nothing is.
func CheckName(name string) error {
	if !nameRule.MatchString(name) {
		return fmt.Errorf("%q: want 1 to 64 of A-Z a-z 0-9 . _ -", name)
	}
	return nil
}

// withDefaults returns the configuration with every default filled in, or everything that is wrong with it.
func (c Config) withDefaults() (Config, error) {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }

	if c.Namespace != "" {
		if err := CheckName(c.Namespace); err != nil {
			fault("namespace %w", err)
		}
	}
	setDefault(&c.Service, "millrace")
	if !visibleASCII(c.Service, 256) {
		fault("service %q: want 1 to 256 visible ASCII characters", c.Service)
	}
	setDefault(&c.MaxLen, 100_000)
	setDefault(&c.HardMaxLen, 10*c.MaxLen)
	if c.Redis == nil {
		setDefault(&c.LocalMaxLen, int(c.MaxLen))
	}
	setDefault(&c.LocalMaxLen, 1_000)
	setDefault(&c.RestoreEvents, 10_000)
	setDefault(&c.MaxDataBytes, 1<<20)
	setDefault(&c.MaxMetadataBytes, 16<<10)
	setDefault(&c.Writers, 4)
	setDefault(&c.QueueEvents, 16_384)
	setDefault(&c.QueueBytes, 32<<20)
	setDefault(&c.OutageAfter, 5*time.Second)
	setDefault(&c.SpoolBytes, 1<<30)
	c.Health = c.Health.withDefaults()
	if c.Logger == nil {
		c.Logger = slog.Default()
	}

	for name, n := range map[string]int64{
		"MaxLen": c.MaxLen, "HardMaxLen": c.HardMaxLen, "LocalMaxLen": int64(c.LocalMaxLen), "MaxDataBytes": int64(c.MaxDataBytes),
		"MaxMetadataBytes": int64(c.MaxMetadataBytes), "Writers": int64(c.Writers), "QueueEvents": int64(c.QueueEvents), "QueueBytes": c.QueueBytes, "OutageAfter": int64(c.OutageAfter),
		"SpoolBytes": c.SpoolBytes, "RestoreEvents": int64(c.RestoreEvents),
	} {
		if n < 0 {
			fault("%s is negative", name)
		}
	}
	if c.HardMaxLen < c.MaxLen {
		fault("HardMaxLen %d is below MaxLen %d", c.HardMaxLen, c.MaxLen)
	}
	setDefault(&c.Fallback, Wait)
	switch {
	case c.Fallback != Wait && c.Fallback != Local:
		fault("Fallback %q: want wait or local", c.Fallback)
	case c.Fallback == Local && c.SpoolDir == "":
		fault("Fallback local needs SpoolDir")
	}
	if c.RedisOnly && c.Redis == nil {
		fault("RedisOnly needs Redis")
	}
	if c.NoPublish && !c.RedisOnly {
		fault("NoPublish needs RedisOnly")
	}
	if c.NoPublish && c.Announce {
		fault("NoPublish and Announce contradict each other")
	}
	if c.RedisOnly && c.SpoolDir != "" {
		fault("RedisOnly and SpoolDir contradict each other")
	}
	if c.OneShot && c.SpoolDir != "" {
		fault("OneShot and SpoolDir contradict each other")
	}
	return c, errors.Join(faults...)
}

func setDefault[T comparable](field *T, value T) {
	if *field == *new(T) {
		*field = value
	}
}

// hostname is the part of instance names that tells machines apart, cleaned of what a consumer name may not hold.
func hostname() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		return "host"
	}
	clean := regexp.MustCompile(`[^A-Za-z0-9._-]`).ReplaceAllString(host, "-")
	return clean[:min(len(clean), 24)]
}
