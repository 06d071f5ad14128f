// Command bench measures Millrace, what Redis can do at all, and what others make of it, side by side. docs/performance.md says how
// and what came of it.
//
//	go run -C bench .
//	go run -C bench . --quick
//	go run -C bench . --only '^millrace/end-to-end' --cpuprofile /tmp/profiles
//	go run -C bench . --only '/idle/' --instances 3,10,30
//	go run -C bench . --against HEAD~3
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// Hidden subcommands: this program starts itself.
const (
	commandChild = "child"
	commandNATS  = "serve-nats"
)

// options are what the user asked for.
type options struct {
	rounds   int
	only     *regexp.Regexp
	quick    bool
	json     bool
	svg      string
	against  string
	profiles string
	idle     idleOptions
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 2 && args[0] == commandChild {
		return runChild(ctx, args[1], os.Stdout)
	}
	if len(args) == 2 && args[0] == commandNATS {
		return serveNATS(args[1], os.Stdin, os.Stdout)
	}
	o, err := parse(args)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "millrace-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if o.profiles != "" {
		if err := os.MkdirAll(o.profiles, 0o755); err != nil {
			return err
		}
	}
	r := &runner{dir: dir, profiles: o.profiles, log: func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }}
	if o.against != "" {
		return compare(ctx, o, r)
	}
	return benchmark(ctx, o, r)
}

func parse(args []string) (options, error) {
	var o options
	var only, instances string
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.IntVar(&o.rounds, "rounds", 0, "how often each case is run (default 5; with --against 10, with --quick 1)")
	flags.StringVar(&only, "only", "", "run the cases whose name matches this regular expression")
	flags.BoolVar(&o.quick, "quick", false, "a fraction of the events, once: whether everything works, not how fast it is")
	flags.BoolVar(&o.json, "json", false, "print a JSON object per case on stdout; the table goes to stderr")
	flags.StringVar(&o.svg, "svg", "", "measure more round-trip times, and write a plot to this `file`")
	flags.StringVar(&o.against, "against", "", "compare Millrace with itself at this git `revision`, and nothing else")
	flags.StringVar(&o.profiles, "cpuprofile", "", "write CPU and allocation profiles of each case to this `folder`")
	flags.StringVar(&instances, "instances", "3", "idle: a case for each of these `numbers` of instances, separated by commas")
	flags.DurationVar(&o.idle.settle, "settle", 0, "idle: how long the fleet comes to rest before it is measured (default 45s; with --quick 1s)")
	flags.DurationVar(&o.idle.window, "window", 0, "idle: how long it is measured (default 30s; with --quick 2s)")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("argument %q: none is expected", flags.Arg(0))
	}
	var err error
	if o.only, err = regexp.Compile(only); err != nil {
		return o, fmt.Errorf("--only: %w", err)
	}
	if o.idle.instances, err = parseInstances(instances); err != nil {
		return o, fmt.Errorf("--instances: %w", err)
	}
	switch {
	case o.against != "" && (o.json || o.svg != "" || o.profiles != ""):
		return o, errors.New("--json, --svg and --cpuprofile do not go with --against")
	case o.idle.settle < 0 || o.idle.window < 0:
		return o, errors.New("--settle or --window is negative")
	case o.rounds < 0:
		return o, errors.New("--rounds is negative")
	case o.rounds > 0:
	case o.quick:
		o.rounds = 1
	case o.against != "":
		o.rounds = 10
	default:
		o.rounds = 5
	}
	return o, nil
}

// cases returns what was asked for. The idle cases come last: they take longer than any other.
func (o options) cases() []Case {
	return chosen(append(cases(o.quick, o.svg != ""), idleCases(o.idle, o.quick)...), o.only)
}

// benchmark runs the cases of all systems and reports.
func benchmark(ctx context.Context, o options, r *runner) error {
	all := o.cases()
	if len(all) == 0 {
		return errors.New("--only matches no case")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	begin := time.Now()
	where, err := r.survey(ctx)
	if err != nil {
		return err
	}
	got, failed := r.run(ctx, []contender{{binary: self, cases: all}}, o.rounds)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	measured := rows(all, got[0])

	var report strings.Builder // what is written to it can't fail
	fmt.Fprintf(&report, "Median of %d, in %s. %s\n\n", o.rounds, time.Since(begin).Round(time.Second), where)
	printTable(&report, measured)
	printIdle(&report, all, got[0])
	printTargets(&report, all, got[0])
	out := os.Stdout
	if o.json {
		if err := errors.Join(printJSON(os.Stdout, measured), printJSON(os.Stdout, idleRows(all, got[0]))); err != nil {
			return err
		}
		out = os.Stderr
	}
	if _, err := out.WriteString(report.String()); err != nil {
		return err
	}
	if o.svg != "" {
		if err := os.WriteFile(o.svg, plot(all, got[0]), 0o644); err != nil {
			return err
		}
	}
	return failed
}
