package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/rishi-platform/millrace/handlers"
	"github.com/rishi-platform/millrace/internal/terminal"
	"github.com/rishi-platform/millrace/pipeline"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// options are the flags that all verbs share.
type options struct {
	redis     string
	namespace string
	server    string
	service   string
	json      bool
	maxLen    int64
	hardMax   int64
	noPayload bool
	logLevel  string
	logFormat string
	traceMode string
	limits    pipeline.HealthLimits
}

// newRootCommand returns the command tree.
func newRootCommand() *cobra.Command {
	o := &options{}
	root := &cobra.Command{
		Use:   "millrace",
		Short: "A durable event pipeline on Redis Streams",
		Long: `A durable event pipeline on Redis Streams.

  millrace serve --demo                          a server in memory, with traffic to look at
  millrace publish booking.created '{"id":1}'    publish an event (needs --redis or --server)
  millrace tail 'booking.*'                      follow events live
  millrace history --since 1h                    look at what was published
  millrace work billing 'booking.*' --exec ./handle.sh
                                                 a worker service in any language
  millrace group ls                              who has what left to do
  millrace dead ls booking billing               what a group gave up on, and why

Every flag that configures can be given as an environment variable: millrace help environment.
Exit codes: 0 done, 1 failed, 2 usage, 130 ended by a second signal, 141 nobody reads the output.`,
		SilenceErrors: true, // main prints the one line
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := fromEnvironment(cmd.Flags(), os.LookupEnv); err != nil {
				return err
			}
			return o.setUpLog()
		},
	}
	root.Version = version
	root.SetVersionTemplate("millrace {{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if args := cmd.Flags().Args(); cmd.HasSubCommands() && len(args) > 0 { // the flag is one of a verb that there is not
			return usagef("no verb %q%s", strings.TrimPrefix(cmd.CommandPath()+" "+args[0], "millrace "), didYouMean(cmd, args[0]))
		}
		return &usageError{err}
	})
	flags := root.PersistentFlags()
	flags.StringVar(&o.logLevel, "log-level", "info", "how much is logged to stderr: debug, info, warn, error")
	flags.StringVar(&o.logFormat, "log-format", "text", "how it is logged: text, json")

	root.AddCommand(newServeCommand(o), newPublishCommand(o), newTailCommand(o), newHistoryCommand(o), newHealthCommand(o),
		newWorkCommand(o), newGroupCommand(o), newDeadCommand(o), newReplayCommand(o), newSpoolCommand(o), newBenchCommand(o), newVersionCommand(o), newEnvironmentTopic())
	usageErrors(root)
	return root
}

// usageErrors makes what cobra finds wrong with the arguments of a verb a usage error.
func usageErrors(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error {
			err := check(cmd, args)
			switch {
			case err == nil:
				return nil
			case cmd.Parent() == nil:
				return usagef("unknown command %q%s", args[0], didYouMean(cmd, args[0]))
			}
			return usagef("%s: %w; usage: %s", cmd.Name(), err, cmd.UseLine())
		}
	}
	for _, sub := range c.Commands() {
		usageErrors(sub)
	}
}

func didYouMean(cmd *cobra.Command, arg string) string {
	cmd.SuggestionsMinimumDistance = 2
	if like := cmd.SuggestionsFor(arg); len(like) > 0 {
		return ", did you mean " + like[0] + "?"
	}
	return ", see millrace --help"
}

// addRedisFlags adds the flags of verbs that speak to Redis.
func (o *options) addRedisFlags(f *pflag.FlagSet) {
	f.StringVar(&o.redis, "redis", "", "where Redis is: redis://[user:password@]host[:port][/database], rediss:// for TLS")
	f.StringVar(&o.namespace, "namespace", "", "prefix of every key")
	f.StringVar(&o.service, "service", "millrace", "source of the events that name none")
	f.Int64Var(&o.maxLen, "max-len", 100_000, "events that a stream keeps in memory; in Redis it is cut at twice hard-max-len")
	f.Int64Var(&o.hardMax, "hard-max-len", 0, "half of the length at which a stream in Redis is cut, whatever was read (default 10 times max-len)")
}

func (o *options) addServerFlag(f *pflag.FlagSet) {
	f.StringVar(&o.server, "server", "", "speak HTTP to this server instead of to Redis: http://127.0.0.1:8080")
}

func (o *options) addJSONFlag(f *pflag.FlagSet) {
	f.BoolVar(&o.json, "json", false, "print JSON, one object a line")
}

// addLineFlags adds the flags of verbs that print events.
func (o *options) addLineFlags(f *pflag.FlagSet) {
	o.addJSONFlag(f)
	f.BoolVar(&o.noPayload, "no-payload", false, "leave the line out that shows the payload of an event")
}

// line makes what is printed of an event: JSON, or text, which is cut to the width that the terminal has at that moment.
func (o *options) line(out io.Writer) handlers.Line {
	switch {
	case o.json:
		return handlers.JSONLine
	case o.noPayload:
		return handlers.TextLine
	}
	return func(r pipeline.Record) ([]byte, error) { return handlers.TextDataLine(terminal.Width(out))(r) }
}

// addHealthFlags adds the flags that say from when on health calls something a problem.
func (o *options) addHealthFlags(f *pflag.FlagSet) {
	durationVar(f, &o.limits.LagWarning, "warn-lag", time.Minute, "warn when an event has waited so long in its stream for a group; -1s: never")
	durationVar(f, &o.limits.LagError, "error-lag", 10*time.Minute, "call it an error then; -1s: never")
	durationVar(f, &o.limits.PendingWarning, "warn-pending", 5*time.Minute, "warn when a consumer has held a delivery for so long, or for twice the timeout of its handlers; -1s: never")
	f.Float64Var(&o.limits.DeadPercent, "error-dead", 1, "dead letters are a warning, and an error where they are more than so many percent of the last hour's events; -1: neither")
}

// checkLimits refuses limits that mean nothing: 0, which the library takes for its default, and those that a server has itself.
func (o *options) checkLimits(cmd *cobra.Command) error {
	for name, is := range map[string]bool{
		"warn-lag": o.limits.LagWarning == 0, "error-lag": o.limits.LagError == 0, "warn-pending": o.limits.PendingWarning == 0, "error-dead": o.limits.DeadPercent == 0,
	} {
		if is {
			return usagef("--%s 0: want more, or less for never", name)
		}
		if o.server != "" && cmd.Flags().Changed(name) {
			return usagef("--%s does not go with --server: a server has limits of its own, flags of millrace serve", name)
		}
	}
	return nil
}

func (o *options) addTraceFlag(f *pflag.FlagSet) {
	f.StringVar(&o.traceMode, "trace-mode", "auto", "whether handling an event continues the trace of its publish: auto, continue, link")
}

// setUpLog makes stderr the log of the process.
func (o *options) setUpLog() error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.logLevel)); err != nil {
		return usagef("--log-level: %q is none of debug, info, warn, error", o.logLevel)
	}
	redis.SetLogger(redisLogger{})
	settings := &slog.HandlerOptions{Level: level}
	switch o.logFormat {
	case "text":
		slog.SetDefault(slog.New(slog.NewTextHandler(logWriter{os.Stderr}, settings)))
	case "json":
		slog.SetDefault(slog.New(slog.NewJSONHandler(logWriter{os.Stderr}, settings)))
	default:
		return usagef("--log-format: %q is neither text nor json", o.logFormat)
	}
	return nil
}

// redisLogger makes what go-redis says a matter of debugging: the bus says once what has changed.
type redisLogger struct{}

func (redisLogger) Printf(ctx context.Context, format string, args ...any) {
	slog.DebugContext(ctx, fmt.Sprintf(format, args...))
}
