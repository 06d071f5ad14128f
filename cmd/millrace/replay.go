package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"github.com/rishi-platform/millrace/pipeline"
	"github.com/spf13/cobra"
)

// replayVerb is one run of "millrace replay".
type replayVerb struct {
	*options
	query        pipeline.Query
	since, until string
	after        string
	rate         float64
	dryRun, all  bool
}

func newReplayCommand(o *options) *cobra.Command {
	r := &replayVerb{options: o}
	cmd := &cobra.Command{
		Use:   "replay STREAM GROUP {--all | filters}",
		Short: "Give events of the history to one group again",
		Long: `Give events of a stream's history to one group again, and to it alone. They arrive as first attempts, beside what is new; handlers
can see that it is a replay. Say --dry-run first to see how many there are.`,
		Example: `  millrace replay booking billing --since 2h --dry-run
  millrace replay booking billing --since 2026-11-26T08:00:00Z --until 2026-11-26T09:00:00Z --rate 100
  millrace replay booking billing --type booking.cancelled --correlation-id abc-1
  millrace replay booking billing --all`,
		Args:              cobra.ExactArgs(2),
		RunE:              r.run,
		ValidArgsFunction: o.completeGroups,
	}
	o.addRedisFlags(cmd.Flags())
	o.addJSONFlag(cmd.Flags())
	f := cmd.Flags()
	f.StringVar(&r.since, "since", "", "stored at this time or later: RFC 3339, or a duration ago such as 2h")
	f.StringVar(&r.until, "until", "", "stored before this time: RFC 3339, or a duration ago")
	f.StringVar(&r.after, "after", "", "behind this position")
	f.StringArrayVar(&r.query.Patterns, "type", nil, "of event types that match this pattern; may be repeated")
	f.StringVar(&r.query.Subject, "subject", "", "of this subject")
	f.StringVar(&r.query.CorrelationID, "correlation-id", "", "of this correlation ID")
	f.IntVar(&r.query.Limit, "limit", 0, "at most so many; 0: all")
	f.Float64Var(&r.rate, "rate", 0, "at most so many per second; 0: as fast as the group takes them")
	f.BoolVar(&r.dryRun, "dry-run", false, "only count them")
	f.BoolVar(&r.all, "all", false, "everything that the stream keeps")
	return cmd
}

func (r *replayVerb) run(cmd *cobra.Command, args []string) error {
	stream, group, err := r.prepare(args)
	if err != nil {
		return err
	}
	bus, err := r.dryOr(r.dryRun, cmd)
	if err != nil {
		return err
	}
	defer closeBus(bus)
	o := pipeline.ReplayOptions{Rate: r.rate, DryRun: true}
	total, err := bus.Replay(cmd.Context(), r.query, group, o)
	if errors.Is(err, context.Canceled) {
		return errors.New("interrupted while it counted: nothing was replayed")
	}
	if err == nil && !r.dryRun {
		line := newProgress(os.Stderr, total)
		o.DryRun, o.Progress = false, line.at
		total, err = bus.Replay(cmd.Context(), r.query, group, o)
		line.end()
	}
	switch {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("interrupted after %d events, which group %s has got", total, group)
	case err != nil && total > 0:
		return fmt.Errorf("%d events were replayed, then: %w", total, err)
	case err != nil:
		return r.whichIsMissing(cmd.Context(), bus, stream, err)
	case total == 0:
		return fmt.Errorf("stream %s keeps no such event; \"millrace history\" shows what there is", stream)
	case r.json:
		return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"replayed": total, "dryRun": r.dryRun})
	case r.dryRun:
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s would be replayed\n", eventsOf(total))
	default:
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s replayed to group %s\n", eventsOf(total), group)
	}
	return err
}

func eventsOf(n int) string {
	if n == 1 {
		return "1 event"
	}
	return fmt.Sprint(n, " events")
}

// parseSpan reads --since and --until.
func parseSpan(sinceText, untilText string) (since, until time.Time, err error) {
	if since, err = parseTime("--since", sinceText); err != nil {
		return since, until, err
	}
	if until, err = parseTime("--until", untilText); err != nil {
		return since, until, err
	}
	if !since.IsZero() && !until.IsZero() && !since.Before(until) {
		return since, until, usagef("--since %s is not before --until %s: nothing lies between", sinceText, untilText)
	}
	return since, until, nil
}

// prepare checks the arguments.
func (r *replayVerb) prepare(args []string) (stream, group string, err error) {
	if stream, group, err = streamAndGroup(args); err != nil {
		return "", "", err
	}
	r.query.Streams = []string{stream}
	filtered := r.since != "" || r.until != "" || r.after != "" || len(r.query.Patterns) > 0 || r.query.Subject != "" || r.query.CorrelationID != "" || r.query.Limit > 0
	switch {
	case !filtered && !r.all:
		return "", "", usagef("replay needs to know what: give filters such as --since and --type, or --all")
	case !(r.rate >= 0 && r.rate <= math.MaxInt32): // no number at all, and infinity, are none either
		return "", "", usagef("--rate %v: want a number of events per second, or 0", r.rate)
	case r.query.Limit < 0:
		return "", "", usagef("--limit %d: want 0 or more", r.query.Limit)
	}
	if _, err := patterns(r.query.Patterns); err != nil {
		return "", "", err
	}
	if r.after != "" {
		if r.query.After, err = pipeline.ParsePosition(r.after); err != nil {
			return "", "", usagef("--after: %w", err)
		}
	}
	r.query.Since, r.query.Until, err = parseSpan(r.since, r.until)
	return stream, group, err
}
