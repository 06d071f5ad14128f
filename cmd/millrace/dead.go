package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rishi-platform/millrace/internal/terminal"
	"github.com/rishi-platform/millrace/pipeline"
	"github.com/spf13/cobra"
)

// deadVerb is one run of "millrace dead ls", "show", "requeue" or "discard".
type deadVerb struct {
	*options
	query        pipeline.DeadQuery
	since, until string
	all, dryRun  bool
	yes          bool
}

func newDeadCommand(o *options) *cobra.Command {
	dead := &cobra.Command{
		Use:   "dead",
		Short: "Look at what groups gave up on, and give it back or discard it",
		Long: `Look at the dead letters of a group: deliveries that failed as often as its policy allows, or that no retry will heal. Each
keeps its cause, and its event unchanged. requeue gives them back to this group alone, as a first attempt.`,
		Example: `  millrace dead ls booking billing
  millrace dead ls booking billing --kind panic --since 1h --json
  millrace dead show booking billing 1795693647515-0
  millrace dead requeue booking billing --fingerprint error-3f2a9c1b7d44
  millrace dead discard booking billing 1795693647515-0`,
		Args: cobra.ArbitraryArgs,
		RunE: needsVerb,
	}
	ls := &deadVerb{options: o}
	list := ls.command("ls STREAM GROUP", "List dead letters, the oldest first", cobra.ExactArgs(2), ls.list)
	list.Long = `List the dead letters of a group: why each was given up on, after how many attempts, and the fingerprint that those with the same reason share.`
	list.Example = `  millrace dead ls booking billing --newest --limit 10
  millrace dead ls booking billing --kind panic --since 1h --json`
	list.Flags().IntVar(&ls.query.Limit, "limit", 50, "at most so many; 0: all")
	list.Flags().BoolVar(&ls.query.Newest, "newest", false, "the newest first")
	show := &deadVerb{options: o}
	one := show.command("show STREAM GROUP POSITION", "Show one dead letter, with its event and stack", cobra.ExactArgs(3), show.show)
	one.Example = `  millrace dead show booking billing 1795693647515-0`
	requeue := &deadVerb{options: o}
	back := requeue.command("requeue STREAM GROUP {POSITION... | --all | filters}", "Give dead letters back to their group", cobra.MinimumNArgs(2), requeue.change(
		"requeued", func(ctx context.Context, b *pipeline.Bus, stream, group string, at []pipeline.Position) (int, error) {
			return b.Requeue(ctx, stream, group, at...)
		}))
	back.Long = `Give dead letters back to their group, and to it alone. They are handled as first attempts and are dead letters no more, until they fail
again. Mend the cause first. Give positions as "millrace dead ls" prints them, or filters, all of which must fit, or --all.`
	back.Example = `  millrace dead requeue booking billing 1795693647515-0
  millrace dead requeue booking billing --fingerprint error-3f2a9c1b7d44
  millrace dead requeue booking billing --type booking.cancelled --since 2h --dry-run
  millrace dead requeue booking billing --all`
	discard := &deadVerb{options: o}
	away := discard.command("discard STREAM GROUP {POSITION... | --all | filters}", "Delete dead letters for good", cobra.MinimumNArgs(2), discard.change(
		"discarded", func(ctx context.Context, b *pipeline.Bus, stream, group string, at []pipeline.Position) (int, error) {
			return b.Discard(ctx, stream, group, at...)
		}))
	away.Long = `Delete dead letters for good. The events stay in their stream as long as it keeps them: "millrace replay" gives them to the group again.`
	away.Example = `  millrace dead discard booking billing 1795693647515-0
  millrace dead discard booking billing --kind foreign --dry-run
  millrace dead discard booking billing --all --yes`
	away.Flags().BoolVar(&discard.yes, "yes", false, "really discard all of them: needed with --all")
	for cmd, verb := range map[*cobra.Command]*deadVerb{back: requeue, away: discard} {
		cmd.Flags().BoolVar(&verb.all, "all", false, "all dead letters of the group")
		cmd.Flags().BoolVar(&verb.dryRun, "dry-run", false, "only say how many there are")
	}
	dead.AddCommand(list, one, back, away)
	return dead
}

func (d *deadVerb) command(use, short string, args cobra.PositionalArgs, run func(*cobra.Command, []string) error) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: args, RunE: run, ValidArgsFunction: d.complete}
	d.addRedisFlags(cmd.Flags())
	d.addJSONFlag(cmd.Flags())
	if strings.HasPrefix(use, "show") {
		return cmd
	}
	f := cmd.Flags()
	f.StringVar(&d.since, "since", "", "given up at this time or later: RFC 3339, or a duration ago such as 2h")
	f.StringVar(&d.until, "until", "", "given up before this time: RFC 3339, or a duration ago")
	f.StringArrayVar(&d.query.Types, "type", nil, "of event types that match this pattern; may be repeated")
	f.StringVar(&d.query.Kind, "kind", "", "of this kind: error, permanent, panic, timeout, crash, decode, foreign")
	f.StringVar(&d.query.Fingerprint, "fingerprint", "", "that failed for this reason, as ls prints it")
	f.StringVar(&d.query.CorrelationID, "correlation-id", "", "of this correlation ID")
	for flag, complete := range map[string]cobra.CompletionFunc{
		"kind":        cobra.FixedCompletions(kinds, cobra.ShellCompDirectiveNoFileComp),
		"fingerprint": d.completeFingerprints,
	} {
		if err := cmd.RegisterFlagCompletionFunc(flag, complete); err != nil {
			panic(err) // the flag was defined above
		}
	}
	return cmd
}

// complete completes a stream, a group of it, and the positions of dead letters where the verb takes some.
func (d *deadVerb) complete(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	switch {
	case len(args) < 2:
		return d.completeGroups(cmd, args, typed)
	case cmd.Name() == "ls", cmd.Name() == "show" && len(args) > 2:
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return d.completeFrom(cmd, args, func(l pipeline.DeadLetter) string {
		if slices.Contains(args[2:], string(l.Position)) {
			return ""
		}
		return cobra.CompletionWithDesc(string(l.Position), l.Event.Type+": "+oneLine(l.Cause, 60))
	}), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}

func (d *deadVerb) completeFingerprints(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	seen := map[string]bool{}
	return d.completeFrom(cmd, args, func(l pipeline.DeadLetter) string {
		if l.Fingerprint == "" || seen[l.Fingerprint] {
			return ""
		}
		seen[l.Fingerprint] = true
		return cobra.CompletionWithDesc(l.Fingerprint, oneLine(l.Cause, 60))
	}), cobra.ShellCompDirectiveNoFileComp
}

// completeFrom is what choice makes of the newest dead letters of the group in args; it makes "" of what is not to be offered.
func (d *deadVerb) completeFrom(cmd *cobra.Command, args []string, choice func(pipeline.DeadLetter) string) (choices []string) {
	if len(args) < 2 {
		return nil
	}
	bus, err := d.completing(cmd)
	if err != nil {
		return nil
	}
	defer closeBus(bus)
	for letter, err := range bus.DeadLetters(cmd.Context(), pipeline.DeadQuery{Stream: args[0], Group: args[1], Newest: true, Limit: deadPage}) {
		if err != nil {
			return nil
		}
		if c := choice(letter); c != "" {
			choices = append(choices, c)
		}
	}
	return choices
}

var kinds = []string{pipeline.KindError, pipeline.KindPermanent, pipeline.KindPanic, pipeline.KindTimeout, pipeline.KindCrash, pipeline.KindDecode, pipeline.KindForeign}

// prepare checks stream, group and filters.
func (d *deadVerb) prepare(args []string) (err error) {
	if d.query.Stream, d.query.Group, err = streamAndGroup(args); err != nil {
		return err
	}
	if _, err := patterns(d.query.Types); err != nil {
		return err
	}
	if d.query.Kind != "" && !slices.Contains(kinds, d.query.Kind) {
		return usagef("--kind %q: want one of %s", d.query.Kind, strings.Join(kinds, ", "))
	}
	if d.query.Limit < 0 {
		return usagef("--limit %d: want 0 or more", d.query.Limit)
	}
	d.query.Since, d.query.Until, err = parseSpan(d.since, d.until)
	return err
}

// deadPosition reads the position of a dead letter. The words that stand for places in a stream name none.
func deadPosition(text string) (pipeline.Position, error) {
	at, err := pipeline.ParsePosition(text)
	if err != nil || at == pipeline.Oldest || at == pipeline.Now {
		return "", usagef("position %q: want that of a dead letter, such as 1764000000000-0, as \"millrace dead ls\" prints it", text)
	}
	return at, nil
}

func (d *deadVerb) filtered() bool {
	return d.since != "" || d.until != "" || len(d.query.Types) > 0 || d.query.Kind != "" || d.query.Fingerprint != "" || d.query.CorrelationID != ""
}

// streamAndGroup checks the first two arguments.
func streamAndGroup(args []string) (stream, group string, err error) {
	if err := pipeline.CheckStream(args[0]); err != nil {
		return "", "", usagef("stream %q %w", args[0], err)
	}
	if err := pipeline.CheckName(args[1]); err != nil {
		return "", "", usagef("group %q %w", args[1], err)
	}
	return args[0], args[1], nil
}

// open opens a bus and sees that the group is there: a mistyped name must not look like a group without dead letters.
func (d *deadVerb) open(cmd *cobra.Command, reads bool) (*pipeline.Bus, error) {
	bus, err := d.dryOr(reads, cmd)
	if err != nil {
		return nil, err
	}
	if _, err := bus.Group(cmd.Context(), d.query.Stream, d.query.Group); err != nil {
		err = d.whichIsMissing(cmd.Context(), bus, d.query.Stream, err)
		closeBus(bus)
		return nil, err
	}
	return bus, nil
}

func (d *deadVerb) list(cmd *cobra.Command, args []string) error {
	if err := d.prepare(args); err != nil {
		return err
	}
	bus, err := d.open(cmd, true)
	if err != nil {
		return err
	}
	defer closeBus(bus)
	out := json.NewEncoder(cmd.OutOrStdout())
	table := terminal.NewTable(cmd.OutOrStdout(), "POSITION", "WHEN", "TYPE", "ID", "KIND", "ATTEMPTS", "FINGERPRINT", "CAUSE")
	table.Less = []string{"ID", "FINGERPRINT", "ATTEMPTS", "KIND"}
	limit, listed := d.query.Limit, 0
	if limit > 0 {
		d.query.Limit++ // one more, to know whether there are
	}
	for dead, err := range bus.DeadLetters(cmd.Context(), d.query) {
		if err != nil {
			return err
		}
		if listed++; limit > 0 && listed > limit {
			break
		}
		if d.json {
			if err := out.Encode(dead); err != nil {
				return err
			}
			continue
		}
		table.Row(dead.Position, dead.LastAt.UTC().Format(time.RFC3339), dead.Event.Type, dead.Event.ID, dead.Kind, dead.Attempts, dead.Fingerprint, oneLine(dead.Cause, 80))
	}
	switch {
	case listed == 0 && d.filtered():
		fmt.Fprintln(cmd.ErrOrStderr(), "no such dead letters")
		return nil
	case listed == 0:
		fmt.Fprintf(cmd.ErrOrStderr(), "group %s has no dead letters of stream %s\n", d.query.Group, d.query.Stream)
		return nil
	}
	if !d.json {
		if err := table.Flush(); err != nil {
			return err
		}
	}
	if limit > 0 && listed > limit {
		fmt.Fprintf(cmd.ErrOrStderr(), "there are more than these %d: --limit 0 lists all\n", limit)
	}
	return nil
}

// oneLine shortens a text for a table.
func oneLine(text string, limit int) string {
	text = strings.Join(strings.Fields(text), " ")
	if runes := []rune(text); len(runes) > limit {
		return string(runes[:limit-1]) + "…"
	}
	return text
}

func (d *deadVerb) show(cmd *cobra.Command, args []string) error {
	if err := d.prepare(args); err != nil {
		return err
	}
	at, err := deadPosition(args[2])
	if err != nil {
		return err
	}
	bus, err := d.open(cmd, true)
	if err != nil {
		return err
	}
	defer closeBus(bus)
	dead, err := bus.DeadLetter(cmd.Context(), d.query.Stream, d.query.Group, at)
	if err != nil {
		return err
	}
	if d.json {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(dead)
	}
	event, err := json.MarshalIndent(dead.Event, "", "  ")
	if err != nil {
		return err
	}
	for _, row := range [][2]string{
		{"position", string(dead.Position)}, {"original", dead.Stream + " " + string(dead.OriginalPosition)}, {"group", dead.Group}, {"consumer", dead.Consumer},
		{"kind", dead.Kind}, {"attempts", fmt.Sprint(dead.Attempts)}, {"first", dead.FirstAt.Format(time.RFC3339Nano)}, {"last", dead.LastAt.Format(time.RFC3339Nano)},
		{"fingerprint", dead.Fingerprint}, {"cause", dead.Cause},
	} {
		fmt.Fprintf(cmd.OutOrStdout(), "%-13s%s\n", row[0], terminal.Escape(row[1])) // what it writes to says so below
	}
	if dead.Stack != "" {
		fmt.Fprintf(cmd.OutOrStdout(), "\n%s\n", terminal.Lines(dead.Stack))
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "\n%s\n", terminal.JSON(string(event)))
	return err
}

// change returns what requeue and discard do.
func (d *deadVerb) change(done string, do func(context.Context, *pipeline.Bus, string, string, []pipeline.Position) (int, error)) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := d.prepare(args); err != nil {
			return err
		}
		var at []pipeline.Position
		for _, text := range args[2:] {
			p, err := deadPosition(text)
			if err != nil {
				return err
			}
			if !slices.Contains(at, p) { // once, however often it is named
				at = append(at, p)
			}
		}
		switch asked := len(at) > 0; {
		case !asked && !d.all && !d.filtered():
			return usagef("%s needs to know which: give positions, filters such as --type and --since, or --all", cmd.Name())
		case asked && (d.all || d.filtered()):
			return usagef("%s takes either positions, or --all and filters", cmd.Name())
		case cmd.Name() == "discard" && d.all && !d.filtered() && !d.yes && !d.dryRun:
			return usagef("discard --all deletes every dead letter of the group for good: say --yes, or look first with --dry-run")
		}
		bus, err := d.open(cmd, d.dryRun)
		if err != nil {
			return err
		}
		defer closeBus(bus)
		asked := len(at)
		n, err := d.each(cmd, bus, at, do)
		if err == nil && 0 < n && n < asked {
			fmt.Fprintf(cmd.ErrOrStderr(), "%d of the %d positions are no dead letters, or no more\n", asked-n, asked)
		}
		switch {
		case err != nil && n > 0:
			return fmt.Errorf("%d %s, then: %w", n, done, err)
		case err != nil:
			return err
		case n == 0:
			return fmt.Errorf("%w in group %s of stream %s", pipeline.ErrNoDeadLetter, d.query.Group, d.query.Stream)
		case d.json:
			return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{done: n, "dryRun": d.dryRun})
		case d.dryRun:
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d would be %s\n", n, done)
		default:
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d %s\n", n, done)
		}
		return err
	}
}

// each does it to the positions, or to all that the filters select, page by page.
func (d *deadVerb) each(cmd *cobra.Command, bus *pipeline.Bus, at []pipeline.Position, do func(context.Context, *pipeline.Bus, string, string, []pipeline.Position) (int, error)) (total int, err error) {
	flush := func() error {
		n, err := do(cmd.Context(), bus, d.query.Stream, d.query.Group, at)
		total, at = total+n, at[:0]
		return err
	}
	if d.dryRun {
		do = func(ctx context.Context, b *pipeline.Bus, stream, group string, at []pipeline.Position) (n int, err error) {
			for _, p := range at {
				if _, err := b.DeadLetter(ctx, stream, group, p); err == nil {
					n++
				} else if !errors.Is(err, pipeline.ErrNoDeadLetter) {
					return n, err
				}
			}
			return n, nil
		}
	}
	if len(at) > 0 {
		err = flush()
		return total, err
	}
	// What fails again meanwhile comes behind the last one. Following that would end only when the workers are slower than this.
	last, err := d.newest(cmd.Context(), bus)
	if err != nil {
		return 0, err
	}
	if d.dryRun {
		flush = func() error { total, at = total+len(at), at[:0]; return nil } // they are there: they have just been read
	}
	for dead, err := range bus.DeadLetters(cmd.Context(), d.query) {
		if err != nil {
			return total, err
		}
		if dead.Position.Compare(last) > 0 {
			break
		}
		if at = append(at, dead.Position); len(at) == deadPage {
			if err := flush(); err != nil {
				return total, err
			}
		}
	}
	err = flush()
	return total, err
}

// newest is the position of the last dead letter that the filters select; Oldest where there is none.
func (d *deadVerb) newest(ctx context.Context, bus *pipeline.Bus) (pipeline.Position, error) {
	q := d.query
	q.Newest, q.Limit = true, 1
	for dead, err := range bus.DeadLetters(ctx, q) {
		return dead.Position, err
	}
	return pipeline.Oldest, nil
}

// deadPage is how many dead letters one step changes.
const deadPage = 100
