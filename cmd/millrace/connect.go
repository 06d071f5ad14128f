package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/rishi-platform/millrace/pipeline"
	"github.com/rishi-platform/millrace/telemetry"
	"github.com/rishi-platform/millrace/telemetry/otelsdk"
	"github.com/spf13/cobra"
)

// oneShotTimeout is how soon a one-shot verb answers, whatever Redis does.
const oneShotTimeout = 5 * time.Second

// closeTimeout bounds the orderly end of a bus; it is longer than the drain deadline of 20 s.
const closeTimeout = 30 * time.Second

// redisAddress returns where Redis is: by --redis, else by the environment. given is false when neither says it.
func (o *options) redisAddress(cmd *cobra.Command) (options *redis.UniversalOptions, given bool, err error) {
	if cmd.Flags().Changed("redis") {
		options, err = pipeline.ParseRedisURL(o.redis)
		if err != nil {
			err = fmt.Errorf("--redis: %w", err)
		}
		return options, true, err
	}
	if os.Getenv("REDIS_URL") == "" && os.Getenv("REDIS_HOST") == "" {
		return nil, false, nil
	}
	options, err = pipeline.RedisFromEnv(os.LookupEnv)
	return options, true, err
}

// errNoAddress says what a verb is missing.
func errNoAddress(verb string, server bool) error {
	if server {
		return usagef("%s needs to know where: give --redis URL, --server URL, or set REDIS_URL, REDIS_HOST or MILLRACE_SERVER", verb)
	}
	return usagef("%s needs to know where Redis is: give --redis URL, or set REDIS_URL or REDIS_HOST", verb)
}

// config returns the configuration that the flags make.
func (o *options) config(redis *redis.UniversalOptions) pipeline.Config {
	return pipeline.Config{
		Redis: redis, Namespace: o.namespace, Service: o.service, Version: version, MaxLen: o.maxLen, HardMaxLen: o.hardMax, Logger: slog.Default(), Health: o.limits,
	}
}

// reading opens a bus for a verb that answers, ends, and changes nothing. A user who may only read will do, a replica, and a server that
// takes no writes.
func (o *options) reading(ctx context.Context, cmd *cobra.Command) (*pipeline.Bus, error) {
	bus, err := o.openOnce(ctx, cmd, true)
	return ready(bus, cmd, err, (*pipeline.Bus).Ready)
}

// changing opens a bus for a verb that answers, ends, and changes something, but publishes nothing: what
// makes room must work where there is none.
func (o *options) changing(ctx context.Context, cmd *cobra.Command) (*pipeline.Bus, error) {
	bus, err := o.openOnce(ctx, cmd, false)
	return ready(bus, cmd, err, func(b *pipeline.Bus) error {
		if b.State() == pipeline.StateUnavailable {
			return b.Ready()
		}
		return nil
	})
}

// dryOr opens a bus for a verb that changes something, unless it is only to say what it would do.
func (o *options) dryOr(dry bool, cmd *cobra.Command) (*pipeline.Bus, error) {
	if dry {
		return o.reading(cmd.Context(), cmd)
	}
	return o.changing(cmd.Context(), cmd)
}

// publishing opens a bus for a verb that publishes and ends.
func (o *options) publishing(ctx context.Context, cmd *cobra.Command) (*pipeline.Bus, error) {
	bus, err := o.openOnce(ctx, cmd, false)
	return ready(bus, cmd, err, (*pipeline.Bus).Ready)
}

// ready returns the bus if nothing is the matter with it.
func ready(bus *pipeline.Bus, cmd *cobra.Command, err error, trouble func(*pipeline.Bus) error) (*pipeline.Bus, error) {
	if err != nil {
		return nil, err
	}
	if err := trouble(bus); err != nil {
		closeBus(bus)
		if of, ok := err.(*pipeline.RedisError); ok {
			named := *of
			named.Op = verbOf(cmd)
			err = &named
		}
		return nil, err
	}
	return bus, nil
}

// verbOf is the verb that was typed: "dead ls".
func verbOf(cmd *cobra.Command) string {
	_, verb, _ := strings.Cut(cmd.CommandPath(), " ")
	return verb
}

// openOnce opens a bus for one answer, also where the server is away. The bus keeps nothing itself and logs nothing.
func (o *options) openOnce(ctx context.Context, cmd *cobra.Command, reads bool) (*pipeline.Bus, error) {
	redis, given, err := o.redisAddress(cmd)
	if err != nil {
		return nil, err
	}
	if !given {
		return nil, errNoAddress(cmd.Name(), cmd.Flags().Lookup("server") != nil)
	}
	cfg := o.config(redis)
	cfg.RedisOnly, cfg.NoPublish, cfg.OneShot = true, reads, true
	cfg.Writers = 1 // one after the other: what is published in order is stored in order
	cfg.OutageAfter = oneShotTimeout - time.Second
	cfg.Logger = slog.New(slog.DiscardHandler)
	bus, err := pipeline.Open(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", verbOf(cmd), err)
	}
	return bus, nil
}

// closeBus ends a bus in order and says what went wrong with it.
func closeBus(bus *pipeline.Bus) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if err := bus.Close(ctx); err != nil {
		slog.Warn("bus was not closed in order", "err", err)
	}
}

// traced is a bus whose events are traced, as the OTEL_* variables say.
type traced struct {
	bus       *pipeline.Bus
	telemetry *otelsdk.Telemetry
}

// openTraced opens a bus for a verb that goes on until it is told to stop.
func (o *options) openTraced(ctx context.Context, cfg pipeline.Config) (traced, error) {
	var mode telemetry.Mode
	if err := mode.UnmarshalText([]byte(o.traceMode)); err != nil {
		return traced{}, usagef("--trace-mode: %w", err)
	}
	sdk, err := otelsdk.Setup(ctx, cfg.Service, version)
	if err != nil {
		return traced{}, err
	}
	host, port := serverOf(cfg.Redis)
	cfg.Announce = true
	cfg.Hooks = telemetry.New(telemetry.Config{TracerProvider: sdk.TracerProvider, Mode: mode, ClientID: cfg.Service, ServerAddress: host, ServerPort: port})
	bus, err := pipeline.Open(ctx, cfg)
	if err != nil {
		return traced{}, errors.Join(err, sdk.Shutdown(ctx))
	}
	return traced{bus, sdk}, nil
}

// serverOf is the address that spans name; empty in memory.
func serverOf(options *redis.UniversalOptions) (string, int) {
	if options == nil || len(options.Addrs) == 0 {
		return "", 0
	}
	host, port, err := net.SplitHostPort(options.Addrs[0])
	if err != nil {
		return options.Addrs[0], 0
	}
	n, _ := strconv.Atoi(port) // the URL was checked
	return host, n
}

// close ends the bus, and then exports what its end has traced.
func (t traced) close() {
	closeBus(t.bus)
	if err := t.telemetry.Shutdown(context.Background()); err != nil { // it takes at most 5 s
		slog.Warn("traces were not exported", "err", err)
	}
}
