package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/rishi-platform/millrace/handlers/httpapi"
	"github.com/rishi-platform/millrace/pipeline"
	"github.com/spf13/cobra"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
)

// serveVerb is one run of "millrace serve".
type serveVerb struct {
	*options
	addr           string
	allowAnonymous bool
	dataDir        string
	spoolBytes     int64
	restore        int
	demo           bool
}

const (
	// keepNothing is the value of --data-dir that selects the mode redis-only.
	keepNothing = "off"
	// drainHTTP is how long requests that are under way may take when the server stops.
	drainHTTP = 10 * time.Second
)

func newServeCommand(o *options) *cobra.Command {
	s := &serveVerb{options: o}
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the HTTP server",
		Long: `Run the HTTP server: publish, history, health. Without Redis it runs in memory, says so in health, and everything that can
work does. With Redis it starts even while Redis is away, and goes on trying.

Without credentials everybody who reaches the port is an administrator, so it listens on loopback only unless
--allow-anonymous says that this is what you want.`,
		Example: `  millrace serve --demo
  millrace serve --redis redis://localhost
  ENABLE_REDIS_EVENTS=true REDIS_HOST=redis millrace serve --addr 0.0.0.0:8080 --allow-anonymous`,
		Args: cobra.NoArgs,
		RunE: s.run,
	}
	o.addRedisFlags(cmd.Flags())
	o.addTraceFlag(cmd.Flags())
	o.addHealthFlags(cmd.Flags())
	f := cmd.Flags()
	f.StringVar(&s.addr, "addr", "127.0.0.1:8080", "where to listen, host:port")
	f.BoolVar(&s.allowAnonymous, "allow-anonymous", false, "everybody who reaches the port is an administrator; listen on any address")
	f.StringVar(&s.dataDir, "data-dir", "", "folder for the spool: events that are published while Redis is away; off: keep nothing outside of Redis (mode redis-only); none: refuse them")
	bytesVar(f, &s.spoolBytes, "spool-bytes", 1<<30, "the most that the spool may take on disk; beyond it events are refused while Redis is away")
	f.IntVar(&s.restore, "restore", 10_000, "events per stream that can be appended again when Redis forgets what it had confirmed (a restart, a failover); 0: they are named and counted only")
	f.BoolVar(&s.demo, "demo", false, "run a booking workload as well, to have something to look at")
	return cmd
}

func (s *serveVerb) run(cmd *cobra.Command, _ []string) error {
	host, _, err := splitAddr(s.addr)
	if err != nil {
		return err
	}
	if !s.allowAnonymous && !isLoopback(host) {
		return fmt.Errorf("%s is not loopback, and there are no credentials: listen on 127.0.0.1, or give --allow-anonymous to make everybody who reaches the port an administrator", s.addr)
	}
	redis, err := s.redisOptions(cmd)
	if err != nil {
		return err
	}
	if err := s.checkLimits(cmd); err != nil {
		return err
	}
	if s.spoolBytes < 1 || s.restore < 0 {
		return usagef("--spool-bytes %d, --restore %d: want at least 1 and 0", s.spoolBytes, s.restore)
	}
	cfg := s.config(redis)
	cfg.SpoolBytes, cfg.RestoreEvents, cfg.NoRestore = s.spoolBytes, s.restore, s.restore == 0
	cfg.RedisOnly = redis != nil && s.dataDir == keepNothing
	if redis != nil && s.dataDir != "" && s.dataDir != keepNothing {
		if err := checkDataDir(s.dataDir); err != nil {
			return err
		}
		cfg.SpoolDir, cfg.Fallback = s.dataDir, pipeline.Local
	}
	// The port first: nothing is begun, neither with Redis nor with the demo, by a server that can't serve.
	listener, err := net.Listen("tcp", s.addr)
	if err != nil {
		return fmt.Errorf("listen on %s: %w; stop what listens there, or choose another --addr", s.addr, err)
	}
	t, err := s.openTraced(cmd.Context(), cfg)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	api := httpapi.New(t.bus, httpapi.Config{AllowAnonymous: s.allowAnonymous, Version: version, Logger: slog.Default()})
	server := &http.Server{
		Handler:           s.traceRequests(api, t),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute,
		WriteTimeout:      time.Minute,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug),
	}
	s.welcome(cmd, t, listener.Addr().String())
	return s.serve(cmd.Context(), server, listener, t)
}

// redisOptions returns where Redis is, nil for memory. serve uses Redis only when it is told to, as the bus it replaces did.
func (s *serveVerb) redisOptions(cmd *cobra.Command) (*redis.UniversalOptions, error) {
	options, given, err := s.redisAddress(cmd)
	if cmd.Flags().Changed("redis") {
		return options, err
	}
	enabled := false
	if text := os.Getenv("ENABLE_REDIS_EVENTS"); text != "" {
		if enabled, err = strconv.ParseBool(text); err != nil {
			return nil, usagef("ENABLE_REDIS_EVENTS: %q is neither true nor false", text)
		}
	}
	if !enabled {
		if given {
			slog.Warn("a Redis address is set, but not used: events are kept in memory", "hint", "set ENABLE_REDIS_EVENTS=true, or give --redis")
		}
		return nil, nil
	}
	if !given {
		return pipeline.RedisFromEnv(os.LookupEnv) // its defaults
	}
	return options, err
}

// traceRequests makes a span of each request to the API, a root of its own: who may be anybody does not decide about our traces.
func (s *serveVerb) traceRequests(api http.Handler, t traced) http.Handler {
	return otelhttp.NewHandler(api, "", otelhttp.WithPublicEndpointFn(func(*http.Request) bool { return true }), otelhttp.WithTracerProvider(t.telemetry.TracerProvider),
		otelhttp.WithSpanNameFormatter(func(_ string, r *http.Request) string { return r.Method + " " + r.URL.Path }),
		otelhttp.WithFilter(func(r *http.Request) bool { return r.URL.Path == "/api/events/publish" }))
}

// serve serves until ctx ends, and then ends in order.
//
// The order: no new connections first, and what is under way gets its answer, since each may still publish. Then the demo, which is a
// client of the bus. Then the bus, which drains and sends what is queued. The traces last: all the others make some.
func (s *serveVerb) serve(ctx context.Context, server *http.Server, listener net.Listener, t traced) error {
	demo := startDemo(ctx, s.demo, t.bus)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()

	var failure error
	select {
	case failure = <-served:
	case <-ctx.Done():
		slog.Info("stopping")
		drain, cancel := context.WithTimeout(context.Background(), drainHTTP)
		defer cancel()
		if err := server.Shutdown(drain); err != nil {
			slog.Warn("some requests were cut off", "err", err)
		}
	}
	demo.stop()
	t.close()
	return failure
}

// welcome says what there is to open and to type.
func (s *serveVerb) welcome(cmd *cobra.Command, t traced, addr string) {
	base := "http://" + addr
	fmt.Fprintf(cmd.ErrOrStderr(), `millrace %s listens on %s (%s)

  open      %s/docs
  health    curl %s/api/events/health
  publish   curl -H 'Content-Type: application/json' -d '{"type":"booking.created","payload":{"id":1}}' %s/api/events/publish
  history   curl '%s/api/events/history?eventType=booking.*&limit=5'

`, version, base, t.bus.Mode(), base, base, base, base)
	if s.allowAnonymous {
		slog.Warn("everybody who reaches this port is an administrator (--allow-anonymous)", "addr", addr)
	} else {
		slog.Info("no credentials are configured: everybody on this machine is an administrator", "addr", addr)
	}
}

func splitAddr(addr string) (host, port string, err error) {
	host, port, err = net.SplitHostPort(addr)
	if err == nil {
		var n int
		if n, err = strconv.Atoi(port); err == nil && (n < 0 || n > 65535) {
			err = errors.New("no such port")
		}
	}
	if err != nil {
		return "", "", usagef("--addr %q: want host:port", addr)
	}
	return host, port, nil
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// checkDataDir makes the folder and makes sure that files can be written in it: better now than when they are needed.
func checkDataDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make data folder: %w", err)
	}
	probe, err := os.CreateTemp(dir, ".probe-*")
	if err != nil {
		return fmt.Errorf("data folder %s can't be written to: %w", filepath.Clean(dir), err)
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}
