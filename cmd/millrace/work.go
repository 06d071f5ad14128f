package main

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/rishi-platform/millrace/handlers"
	"github.com/rishi-platform/millrace/pipeline"
	"github.com/rishi-platform/millrace/router"
	"github.com/rishi-platform/millrace/telemetry"
	"github.com/spf13/cobra"
)

// workVerb is one run of "millrace work".
type workVerb struct {
	*options
	exec, webhook string
	print         bool
	concurrency   int
	from          string
	policy        router.Policy
	backoffFirst  time.Duration
	backoffMost   time.Duration
	drain         time.Duration
}

func newWorkCommand(o *options) *cobra.Command {
	w := &workVerb{options: o}
	cmd := &cobra.Command{
		Use:   "work GROUP PATTERN... {--exec CMD | --webhook URL | --print}",
		Short: "Run a worker service in any language",
		Long: `Run one instance of the worker service GROUP: each event that matches a PATTERN goes to one instance of the group, at
least once. Start as many as you like; Ctrl-C lets what runs finish.

--exec CMD runs /bin/sh -c CMD for each event, with the CloudEvent as JSON on stdin and MILLRACE_EVENT_ID, MILLRACE_EVENT_TYPE,
MILLRACE_STREAM, MILLRACE_POSITION, MILLRACE_SUBJECT, MILLRACE_GROUP, MILLRACE_ATTEMPT, MILLRACE_CORRELATION_ID and TRACEPARENT
set. Exit 0 acknowledges the event, 100 gives it up, 101 asks for more time (a last line of output "retry-after: 30s" says how much).
126 and 127 say that this machine can't run CMD: the event goes to another worker at no cost of an attempt, and this one stops taking
events until one that it tries, after 5 s, 10 s … up to a minute, succeeds. A CMD that can't be found at the start is refused.
Anything else is a failure: the event comes again, after 1 s, 2 s, 4 s … up to 15 min, and is given up after the 20th, about
2.5 hours after the first; see "millrace dead". What CMD publishes with "millrace publish" belongs to the same story.

--webhook URL posts the CloudEvent; 2xx acknowledges, 400, 410, 413, 415 and 422 give it up, anything else is a failure. Retry-After is
honoured, up to 24 h. --print prints a line.

` + patternHelp,
		Example: `  millrace work billing 'booking.*' --exec ./charge.py
  millrace work audit '**' --webhook http://localhost:9000/events --concurrency 32
  millrace work mail 'invoice.issued' --exec ./send.sh --attempts 10 --backoff 5s --timeout 1m
  millrace work peek 'booking.*' --print --from now`,
		Args:              cobra.MinimumNArgs(2),
		RunE:              w.run,
		ValidArgsFunction: w.complete,
	}
	o.addRedisFlags(cmd.Flags())
	o.addJSONFlag(cmd.Flags())
	o.addTraceFlag(cmd.Flags())
	f := cmd.Flags()
	f.StringVar(&w.exec, "exec", "", "run this shell command for each event")
	f.StringVar(&w.webhook, "webhook", "", "post each event to this URL")
	f.BoolVar(&w.print, "print", false, "print each event")
	f.IntVar(&w.concurrency, "concurrency", runtime.NumCPU(), "events handled at the same time")
	f.IntVar(&w.policy.Attempts, "attempts", 20, "failures after which an event is given up; -1: never")
	durationVar(f, &w.backoffFirst, "backoff", time.Second, "wait after the first failure; it doubles with each")
	durationVar(f, &w.backoffMost, "backoff-max", 15*time.Minute, "longest wait between attempts")
	durationVar(f, &w.policy.Timeout, "timeout", 0, "how long handling one event may take; 0: without end")
	f.IntVar(&w.policy.CrashLimit, "crash-limit", 3, "deaths of workers while they handle an event after which it is given up; -1: never")
	durationVar(f, &w.policy.ClaimIdle, "claim-idle", time.Minute, "after how long events are taken that other software in the group has left pending")
	durationVar(f, &w.drain, "drain-timeout", 20*time.Second, "how long a stop waits for what is being handled")
	f.BoolVar(&w.policy.PerSubject, "per-subject", false, "handle the events of one subject one after the other")
	f.BoolVar(&w.policy.NeverPause, "never-pause", false, "go on where nearly everything fails, until each event is given up")
	f.IntVar(&w.policy.DeadLetters, "dead-letters", 100_000, "dead letters that the group keeps; the oldest go first")
	durationVar(f, &w.policy.DeadLetterAge, "dead-letter-age", 30*24*time.Hour, "how long the group keeps them")
	f.StringVar(&w.from, "from", "oldest", "where a new group begins: oldest, now, a position, a time, a date, or how long ago, such as 10m or 1d; a group that is there goes on where it was")
	if err := cmd.RegisterFlagCompletionFunc("from", cobra.FixedCompletions([]string{"oldest", "now"}, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag was defined above
	}
	return cmd
}

// complete completes a group, and patterns that take all of a stream.
func (w *workVerb) complete(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	bus, err := w.completing(cmd)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer closeBus(bus)
	var choices []string
	for _, s := range bus.Health(cmd.Context()).Streams {
		if len(args) > 0 {
			choices = append(choices, s.Name+".**")
			continue
		}
		for _, g := range s.Groups {
			choices = append(choices, g.Name)
		}
	}
	slices.Sort(choices)
	return slices.Compact(choices), cobra.ShellCompDirectiveNoFileComp
}

func (w *workVerb) run(cmd *cobra.Command, args []string) error {
	group := args[0]
	if err := pipeline.CheckName(group); err != nil {
		return usagef("group %w", err)
	}
	patterns, err := patterns(args[1:])
	if err != nil {
		return err
	}
	from, err := parseFrom(w.from)
	if err != nil {
		return err
	}
	handle, err := w.handler(cmd)
	if err != nil {
		return err
	}
	redis, given, err := w.redisAddress(cmd)
	if err != nil {
		return err
	}
	if !given {
		return errNoAddress("work", false)
	}
	cfg := w.config(redis)
	cfg.RedisOnly = true
	t, err := w.openTraced(cmd.Context(), cfg)
	if err != nil {
		return err
	}
	defer t.close()
	r := router.New(t.bus, router.Config{DrainTimeout: w.drain})
	w.policy.InFlight, w.policy.Backoff = w.concurrency, w.backoff
	if cmd.Flags().Changed("from") {
		w.policy.From = from
	}
	g := r.Group(group, w.policy)
	for _, p := range patterns {
		g.Handle(p, handle)
	}
	slog.Info("working", "group", group, "patterns", patterns, "concurrency", w.concurrency)
	return r.Run(cmd.Context())
}

// handler is what --exec, --webhook or --print asks for.
func (w *workVerb) handler(cmd *cobra.Command) (router.Handler, error) {
	asked := 0
	for _, yes := range []bool{w.exec != "", w.webhook != "", w.print} {
		if yes {
			asked++
		}
	}
	switch {
	case asked != 1:
		return nil, usagef("work needs to know what to do: give one of --exec CMD, --webhook URL, --print")
	case w.concurrency < 1:
		return nil, usagef("--concurrency %d: want 1 or more", w.concurrency)
	case w.policy.Attempts == 0 || w.policy.Attempts < -1:
		return nil, usagef("--attempts %d: want 1 or more, or -1", w.policy.Attempts)
	case w.policy.CrashLimit == 0 || w.policy.CrashLimit < -1:
		return nil, usagef("--crash-limit %d: want 1 or more, or -1", w.policy.CrashLimit)
	case w.policy.DeadLetters < 1:
		return nil, usagef("--dead-letters %d: want 1 or more", w.policy.DeadLetters)
	case w.backoffFirst < 0 || w.backoffMost < w.backoffFirst:
		return nil, usagef("--backoff %s, --backoff-max %s: want 0 or more, and the first not above the second", w.backoffFirst, w.backoffMost)
	case w.policy.Timeout < 0:
		return nil, usagef("--timeout %s: want a duration such as 90s, or 0 for none", w.policy.Timeout)
	case w.policy.ClaimIdle <= 0:
		return nil, usagef("--claim-idle %s: want a duration such as 90s", w.policy.ClaimIdle)
	case w.drain <= 0:
		return nil, usagef("--drain-timeout %s: want a duration such as 20s", w.drain)
	case w.policy.DeadLetterAge <= 0:
		return nil, usagef("--dead-letter-age %s: want a duration such as 720h", w.policy.DeadLetterAge)
	case w.exec != "":
		if err := checkCommand(cmd.Context(), w.exec); err != nil {
			return nil, usagef("%w", err)
		}
		return handlers.Exec(w.exec, handlers.ExecConfig{Stdout: os.Stdout, Stderr: os.Stderr, Env: w.commandEnv(cmd)}), nil
	case w.webhook != "":
		handle, err := handlers.Webhook(w.webhook, handlers.WebhookConfig{Header: traceHeader})
		if err != nil {
			return nil, usagef("--webhook: %w", err)
		}
		return handle, nil
	}
	return handlers.Print(cmd.OutOrStdout(), w.line(cmd.OutOrStdout())), nil
}

// commandEnv hands the trace context of the attempt to a command, and with what it is to publish, where flags say that.
func (w *workVerb) commandEnv(cmd *cobra.Command) func(context.Context, *pipeline.Delivery) []string {
	var always []string
	for flag, variable := range map[string]string{"redis": "REDIS_URL", "namespace": "MILLRACE_NAMESPACE"} {
		if f := cmd.Flags().Lookup(flag); f.Changed {
			always = append(always, variable+"="+f.Value.String())
		}
	}
	return func(ctx context.Context, _ *pipeline.Delivery) []string {
		env := slices.Clone(always)
		for name, value := range telemetry.Headers(ctx) {
			env = append(env, strings.ToUpper(name)+"="+value)
		}
		return env
	}
}

func traceHeader(ctx context.Context, _ *pipeline.Delivery) http.Header {
	header := http.Header{}
	for name, value := range telemetry.Headers(ctx) {
		header.Set(name, value)
	}
	return header
}

// backoff doubles with each failure, ± 20 % (DESIGN §15): what failed at the same time must not come again at the same time.
func (w *workVerb) backoff(failures int) time.Duration {
	wait := w.backoffFirst
	for n := 1; n < failures && wait < w.backoffMost; n++ {
		wait *= 2
	}
	wait = min(wait, w.backoffMost)
	return wait*4/5 + rand.N(max(1, wait*2/5))
}
