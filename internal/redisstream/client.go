package redisstream

import (
	"context"
	"embed"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/redis/go-redis/v9"
)

// Config is what a Client is made with.
type Config struct {
	Redis     *redis.UniversalOptions // where the server is
	Namespace string                  // prefix of every key, may be empty
	MaxLen    int64                   // emergency limit of a stream's length, enforced by each append
	Appends   int                     // how many appends are under way at once as a rule
}

// Client speaks to Redis for one bus. It is safe for concurrent use.
type Client struct {
	namespace string
	maxLen    any // text

	appends  redis.UniversalClient
	blocking redis.UniversalClient
	groups   redis.UniversalClient // what consumers take and settle
	admin    redis.UniversalClient // histories, reports, and what operators do
	beats    redis.UniversalClient // see liveness
	batches  batches               // of what goes over beats
	flushes  batches               // of what goes over appends

	idle      blockingConns // connections for blocking reads that are free now
	targets   targets
	registrar *registrar
	probes    probeKeys
	strangers strangerScans

	runs serverRuns

	greet func(ctx context.Context) (net.Conn, error) // see greeted; nil: it can't be heard
}

const (
	dialTimeout = 2 * time.Second
	// replyTimeout bounds the wait for an answer. A server that is stalled for less than that is slow, not away.
	replyTimeout = 3 * time.Second
	// MaxBlock is the longest that a blocking read waits. It is finite so that a dead link is noticed (RELIABILITY F04), and the
	// connection gives up a second after it, not ten as go-redis would (F05).
	MaxBlock = 2 * time.Second
)

// New returns a client. It does not connect; the first command does.
func New(cfg Config) *Client {
	c := &Client{namespace: cfg.Namespace, greet: greeter(cfg.Redis), maxLen: strconv.FormatInt(cfg.MaxLen, 10)}
	c.appends = redis.NewUniversalClient(options(cfg.Redis, keep(max(1, cfg.Appends))))
	c.blocking = redis.NewUniversalClient(options(cfg.Redis, func(o *redis.UniversalOptions) {
		o.ReadTimeout = MaxBlock + time.Second
		o.PoolSize = 4096 // each blocked reader holds one; connections are made on demand
		o.MinIdleConns, o.MaxIdleConns = 0, 1
	}))
	c.groups = redis.NewUniversalClient(options(cfg.Redis, keep(3)))
	c.admin = redis.NewUniversalClient(options(cfg.Redis, keep(1)))
	c.beats = liveness(cfg.Redis, &c.runs)
	for _, client := range []redis.UniversalClient{c.appends, c.blocking, c.groups, c.admin, c.beats} {
		followCluster(client)
	}
	c.registrar = newRegistrar(c)
	c.batches = batches{client: c.beats, most: batchSenders, patient: true}
	c.flushes = batches{client: c.appends, most: max(1, cfg.Appends)}
	return c
}

// keep has a client keep so many connections that nobody uses, unless the user says otherwise: most of
// a fleet's have nothing to do, and each costs the server some memory.
func keep(n int) func(*redis.UniversalOptions) {
	return func(o *redis.UniversalOptions) {
		if o.MaxIdleConns == 0 {
			o.MaxIdleConns = max(n, o.MinIdleConns)
		}
	}
}

// options returns a copy of the user's options with what the transport relies on.
func options(from *redis.UniversalOptions, change func(*redis.UniversalOptions)) *redis.UniversalOptions {
	o := *from
	o.Addrs = slices.Clone(from.Addrs) // go-redis appends to it, each client by itself

	o.Protocol = 2           // raw replies are parsed by us
	o.MaxRetries = -1        // a repetition is decided by who knows what it may do
	o.DialerRetries = 1      // likewise
	o.DisableIdentity = true // saves a round trip per connection
	o.PipelinePoolSize = -1  // it would be up to ten more, with 256 KiB of buffers each
	o.ContextTimeoutEnabled = true
	o.ReadOnly, o.RouteByLatency, o.RouteRandomly = false, false, false // what a replica has not got yet would look lost
	if o.DialTimeout == 0 {
		o.DialTimeout = dialTimeout
	}
	if o.ReadTimeout == 0 {
		o.ReadTimeout = replyTimeout
	}
	o.Dialer = progressDialer(&o)
	if change != nil {
		change(&o)
	}
	return &o
}

// Close closes the connections.
func (c *Client) Close() error {
	c.idle.close()
	first := c.registrar.close()
	for _, client := range []redis.UniversalClient{c.appends, c.blocking, c.groups, c.admin, c.beats} {
		if err := client.Close(); err != nil && first == nil {
			first = fmt.Errorf("close redis client: %w", err)
		}
	}
	return first
}

//go:embed lua/*.lua
var sources embed.FS

var (
	appendScript   = load("append")
	onceScript     = load("append_once")
	claimScript    = load("claim")
	drainScript    = load("drain")
	identityScript = load("identity")
	probeScript    = load("probe")
	joinScript     = load("join")
	beatScript     = load("beat")
	promoteScript  = load("promote")
	ackScript      = load("ack")
	retryScript    = load("retry")
	retryNowScript = load("retry_now")
	skipScript     = load("skip")
	waitScript     = load("wait")
	takeOverScript = load("takeover")
	leaveScript    = load("leave")
	waitingScript  = load("waiting")
	fetchScript    = load("fetch")
	forgetScript   = load("forget")
	dropScript     = load("drop_waiting")
	readScript     = load("read")
	buryScript     = load("bury")
	lettersScript  = load("letters")
	enqueueScript  = load("enqueue")
	suspectScript  = load("suspect")
	lowerScript    = load("lower")
	loseScript     = load("lose")
	pauseScript    = load("pause")
	strangerScript = load("strangers")
	renewScript    = load("renew")
	removeScript   = load("remove")
	infoScript     = load("info")
	newestScript   = load("newest")
	flowScript     = load("flow")
)

// texts are the scripts as they go to a server that does not know them.
var texts = map[*redis.Script]string{}

func load(name string) *redis.Script {
	text := source(name)
	script := redis.NewScript(text)
	texts[script] = text
	return script
}

// withText is an EVALSHA as an EVAL. In Cluster that goes where the keys are; to load a script would need all shards.
func withText(script *redis.Script, args []any) []any {
	all := slices.Clone(args)
	all[0], all[1] = "EVAL", texts[script]
	return all
}

// source returns a script. A line "-- include NAME" of it stands for what lua/NAME.lua says,
// which several scripts have in common: Redis has no other way for scripts to share any.
func source(name string) string {
	text, err := sources.ReadFile("lua/" + name + ".lua")
	if err != nil {
		panic(err) // the file is embedded: a build without it is broken
	}
	lines := strings.Split(string(text), "\n")
	for i, line := range lines {
		if of, ok := strings.CutPrefix(strings.TrimSpace(line), "-- include "); ok {
			lines[i] = source(of)
		}
	}
	return strings.Join(lines, "\n")
}

// raw runs a command and returns the reply's bytes as a string, to be parsed by resp.go.
func raw(ctx context.Context, client redis.UniversalClient, args ...any) (string, error) {
	cmd := redis.NewRawCmd(ctx, args...)
	if err := client.Process(ctx, cmd); err != nil {
		return "", err
	}
	return textOf(cmd.Val()), nil
}

// rawScript runs a script and returns the reply's bytes as a string.
func rawScript(ctx context.Context, client redis.UniversalClient, script *redis.Script, keys []string, args ...any) (string, error) {
	all := make([]any, 0, 3+len(keys)+len(args))
	all = append(all, "EVALSHA", script.Hash(), len(keys))
	for i := range keys {
		all = append(all, keys[i])
	}
	all = append(all, args...)
	text, err := raw(ctx, client, all...)
	if redis.HasErrorPrefix(err, "NOSCRIPT") || strings.HasPrefix(text, "-NOSCRIPT") {
		text, err = raw(ctx, client, withText(script, all)...)
	}
	return text, err
}

// loadScript gives a script to the server, which does not know it: it was started again, or its scripts
// were flushed. A start leaves connections behind that are dead, hence the repetition.
//
// In Cluster it goes to all shards that are there.
func loadScript(ctx context.Context, client redis.UniversalClient, script *redis.Script) (err error) {
	if cluster, ok := client.(*redis.ClusterClient); ok {
		var loaded atomic.Bool
		err := cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
			err := loadScript(ctx, node, script)
			if err == nil {
				loaded.Store(true)
			}
			return err
		})
		if loaded.Load() {
			return nil
		}
		return err
	}
	for range 3 {
		if err = script.Load(ctx, client).Err(); err == nil {
			return nil
		}
	}
	return err
}

// textOf is the reply as a string, without a copy: the bytes are this reply's own, and nobody keeps them.
func textOf(reply []byte) string { return unsafe.String(unsafe.SliceData(reply), len(reply)) }
