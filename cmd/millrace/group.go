package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/rishi-platform/millrace/internal/terminal"
	"github.com/rishi-platform/millrace/pipeline"
	"github.com/spf13/cobra"
)

// groupVerb is one run of "millrace group ls", "info", "pause", "resume", "retry-now" or "forget-type".
type groupVerb struct {
	*options
	reason string
	dryRun bool
}

func newGroupCommand(o *options) *cobra.Command {
	group := &cobra.Command{
		Use:   "group",
		Short: "Look at consumer groups, pause and resume them, retry now, forget types",
		Long: `Look at the consumer groups of the streams, what they have left to do and who works for them;
pause and resume them; have them try at once what failed, and forget types that nobody handles any more.
A group that is paused finishes what it handles and takes nothing new. A group of which nearly everything fails for one reason
pauses by itself, and tries one event from time to time. A consumer that fails alone is sick: it stops itself, and does so too.`,
		Example: `  millrace group ls
  millrace group info booking billing
  millrace group pause booking billing --reason 'database migration'
  millrace group resume booking billing
  millrace group retry-now booking billing
  millrace group forget-type booking billing booking.cancelled`,
		Args: cobra.ArbitraryArgs,
		RunE: needsVerb,
	}
	g := &groupVerb{options: o}
	ls := &cobra.Command{
		Use:   "ls [STREAM]",
		Short: "List groups and what they have left to do",
		Long: `List the groups of all streams, or of one. LAG is what a group has not read yet, PENDING what its consumers hold, OLDEST for how long they have
held what is not settled, DEFERRED what waits for its next attempt, DEAD what it gave up on.`,
		Example: `  millrace group ls
  millrace group ls booking --json`,
		Args:              cobra.MaximumNArgs(1),
		RunE:              g.list,
		ValidArgsFunction: o.completeStreams,
	}
	info := &cobra.Command{
		Use:     "info STREAM GROUP",
		Short:   "Describe one group and its consumers",
		Example: `  millrace group info booking billing`,
		RunE:    g.info,
	}
	pause := &cobra.Command{
		Use:   "pause STREAM GROUP",
		Short: "Keep a group from taking events of a stream",
		Long: `Keep a group from taking events of a stream, in all its instances, until "millrace group resume". They hear of it within 2 s and finish what
they handle. What comes waits in the stream, which is cut at twice --hard-max-len, whatever was read.`,
		Example: `  millrace group pause booking billing --reason 'database migration'`,
		RunE:    g.pause,
	}
	pause.Flags().StringVar(&g.reason, "reason", "", "why, for those who wonder")
	resume := &cobra.Command{
		Use:     "resume STREAM GROUP",
		Short:   "End the pause of a group",
		Long:    "End the pause of a group, whether an operator paused it or it did so itself since nearly everything failed.",
		Example: `  millrace group resume booking billing`,
		RunE:    g.resume,
	}
	retry := &cobra.Command{
		Use:   "retry-now STREAM GROUP",
		Short: "Have a group try at once what waits for its next attempt",
		Long: `Have a group try its failed events of a stream at once, instead of when their back-off ends, which
may be in 15 minutes. Mend the reason first. Each keeps its number of attempts: one that fails again
waits for its next back-off, or is given up. What asked for more time (exit 101, Retry-After) comes as
well. Dead letters do not: "millrace dead requeue" gives them back.`,
		Example: `  millrace group retry-now booking billing --dry-run
  millrace group retry-now booking billing`,
		RunE: g.retryNow,
	}
	retry.Flags().BoolVar(&g.dryRun, "dry-run", false, "only say how many there are")
	forget := &cobra.Command{
		Use:   "forget-type STREAM GROUP TYPE",
		Short: "Take a type away from what a group takes, where nobody handles it any more",
		Long: `Take an event type, or a pattern with wildcards, away from what a group takes of a stream. A group
keeps the types of every worker that it ever had, and lets events of a type that no worker handles now
wait for one that does. Where none will come any more, forget the type: events that wait, and those that
come, are acknowledged unhandled then, and "millrace group info" counts them as not taken. TYPE is one of
the patterns that "millrace group info" shows. A live worker that handles it has to be stopped first.`,
		Example: `  millrace group forget-type booking billing booking.cancelled --dry-run
  millrace group forget-type booking billing booking.cancelled`,
		RunE: g.forgetType,
	}
	forget.Flags().BoolVar(&g.dryRun, "dry-run", false, "only say how many events wait that would be acknowledged")
	for _, cmd := range []*cobra.Command{ls, info, pause, resume, retry, forget} {
		switch cmd {
		case ls:
		case forget:
			cmd.Args, cmd.ValidArgsFunction = cobra.ExactArgs(3), o.completePatterns
		default:
			cmd.Args, cmd.ValidArgsFunction = cobra.ExactArgs(2), o.completeGroups
		}
		o.addRedisFlags(cmd.Flags())
		o.addJSONFlag(cmd.Flags())
		group.AddCommand(cmd)
	}
	return group
}

// needsVerb runs a command that only has verbs: its help, where none is named.
func needsVerb(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	var verbs []string
	for _, verb := range cmd.Commands() {
		verbs = append(verbs, verb.Name())
	}
	return usagef("%s has no verb %q: want one of %s", cmd.Name(), args[0], strings.Join(verbs, ", "))
}

// completing opens a bus to complete by what the server has. No PersistentPreRunE runs before a completion, so the variables are read here.
func (o *options) completing(cmd *cobra.Command) (*pipeline.Bus, error) {
	if err := fromEnvironment(cmd.Flags(), os.LookupEnv); err != nil {
		return nil, err
	}
	return o.reading(cmd.Context(), cmd)
}

func (o *options) completeStreams(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return o.completeGroups(cmd, args, typed)
}

// completeGroups completes a stream, and a group of it.
func (o *options) completeGroups(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 1 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	bus, err := o.completing(cmd)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer closeBus(bus)
	var names []string
	for _, s := range bus.Health(cmd.Context()).Streams {
		switch {
		case len(args) == 0:
			names = append(names, s.Name)
		case s.Name == args[0]:
			for _, g := range s.Groups {
				names = append(names, g.Name)
			}
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completePatterns completes a stream, a group of it, and a pattern that no live consumer of the group
// handles.
func (o *options) completePatterns(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) < 2 {
		return o.completeGroups(cmd, args, typed)
	}
	if len(args) > 2 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	bus, err := o.completing(cmd)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer closeBus(bus)
	r, err := bus.Group(cmd.Context(), args[0], args[1])
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	patterns := slices.DeleteFunc(r.Patterns, func(p string) bool {
		return slices.ContainsFunc(r.Members, func(m pipeline.ConsumerReport) bool {
			return m.State == "alive" && m.Member != nil && slices.Contains(m.Patterns, p)
		})
	})
	return patterns, cobra.ShellCompDirectiveNoFileComp
}

// groupLine is a group as "group ls --json" prints it.
type groupLine struct {
	Stream string `json:"stream"`
	pipeline.GroupHealth
}

// whichIsMissing makes ErrUnknownGroup say so where not even the stream is there: that name may be the mistyped one.
func (o *options) whichIsMissing(ctx context.Context, bus *pipeline.Bus, stream string, err error) error {
	if !errors.Is(err, pipeline.ErrUnknownGroup) {
		return err
	}
	h := bus.Health(ctx)
	if unreadable(h) != nil || slices.ContainsFunc(h.Streams, func(s pipeline.StreamHealth) bool { return s.Name == stream }) {
		return err
	}
	return fmt.Errorf("there is no stream %s%s: %w", stream, o.within(), err)
}

// within names the namespace, which is easily the wrong one where something is not found.
func (o *options) within() string {
	if o.namespace == "" {
		return ""
	}
	return " in namespace " + o.namespace
}

// unreadable is why a report can't say which streams there are; nil where it can.
func unreadable(h pipeline.Health) error {
	return cmp.Or(problemOf(h, "redis-error"), problemOf(h, "streams-unknown"))
}

// problemOf is the first problem of a code; nil where there is none.
func problemOf(h pipeline.Health, code string) error {
	for _, p := range h.Problems {
		if p.Code == code {
			return errors.New(p.Text)
		}
	}
	return nil
}

func (g *groupVerb) list(cmd *cobra.Command, args []string) error {
	if len(args) == 1 {
		if err := pipeline.CheckStream(args[0]); err != nil {
			return usagef("stream %q %w", args[0], err)
		}
	}
	bus, err := g.reading(cmd.Context(), cmd)
	if err != nil {
		return err
	}
	defer closeBus(bus)
	h := bus.Health(cmd.Context())
	if err := unreadable(h); err != nil {
		return err
	}
	out := json.NewEncoder(cmd.OutOrStdout())
	table := terminal.NewTable(cmd.OutOrStdout(), "STREAM", "GROUP", "CONSUMERS", "LAG", "PENDING", "OLDEST", "DEFERRED", "DEAD", "STATE", "PATTERNS")
	table.Less = []string{"PATTERNS", "CONSUMERS", "OLDEST", "DEFERRED"}
	streams, groups := 0, 0
	for _, s := range h.Streams {
		if len(args) == 1 && s.Name != args[0] {
			continue
		}
		streams++
		for _, one := range s.Groups {
			groups++
			if g.json {
				if err := out.Encode(groupLine{s.Name, one}); err != nil {
					return err
				}
				continue
			}
			table.Row(s.Name, one.Name, one.Consumers, number(one.Lag), one.Pending, age(one.OldestUnackedSeconds), one.Deferred, one.Dead,
				stateOf(one), strings.Join(one.Patterns, " "))
		}
	}
	if refused := problemOf(h, "stream-refused"); refused != nil && (len(args) == 0 || streams == 0) {
		if groups > 0 && !g.json {
			refused = errors.Join(table.Flush(), refused)
		}
		return refused
	}
	if len(args) == 1 && streams == 0 {
		return fmt.Errorf("there is no stream %s%s; \"millrace group ls\" lists those with groups, \"millrace health\" all", args[0], g.within())
	}
	if groups == 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "no groups yet%s: \"millrace work GROUP PATTERN\" makes one\n", g.within())
		return nil
	}
	if g.json {
		return nil
	}
	return table.Flush()
}

// number is a number that may be unknown.
func number(n *int64) string {
	if n == nil {
		return "?"
	}
	return fmt.Sprint(*n)
}

// age is a time in seconds that there may be none of.
func age(seconds *float64) string {
	if seconds == nil {
		return "-"
	}
	return (time.Duration(*seconds) * time.Second).String()
}

func stateOf(g pipeline.GroupHealth) string {
	switch {
	case g.Paused != nil:
		return "paused by " + g.Paused.By
	case g.Consumers == 0:
		return "nobody works"
	}
	return "working"
}

func (g *groupVerb) info(cmd *cobra.Command, args []string) error {
	stream, group, err := streamAndGroup(args)
	if err != nil {
		return err
	}
	bus, err := g.reading(cmd.Context(), cmd)
	if err != nil {
		return err
	}
	defer closeBus(bus)
	r, err := bus.Group(cmd.Context(), stream, group)
	if err != nil {
		return g.whichIsMissing(cmd.Context(), bus, stream, err)
	}
	if g.json {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(r)
	}
	out := terminal.NewTable(cmd.OutOrStdout())
	for _, row := range [][2]string{
		{"stream", r.Stream}, {"group", r.Name}, {"state", stateOf(r.GroupHealth)}, {"patterns", strings.Join(r.Patterns, " ")}, {"delivered up to", string(r.Delivered)},
		{"settled up to", string(r.Frontier)}, {"lag", number(r.Lag)}, {"pending", fmt.Sprint(r.Pending)}, {"oldest of them held for", age(r.OldestUnackedSeconds)}, {"deferred", fmt.Sprint(r.Deferred)}, {"lane", fmt.Sprint(r.Lane)},
		{"dead", fmt.Sprint(r.Dead)}, {"lost", number(r.Lost)},
	} {
		out.Row(row[0], row[1])
	}
	if p := r.Paused; p != nil {
		out.Row("paused since", p.Since.Format(time.RFC3339))
		out.Row("reason", p.Reason)
		if !p.TriedAt.IsZero() {
			out.Row("one tried in vain", p.TriedAt.Format(time.RFC3339))
		}
	}
	for _, w := range r.Waiting {
		out.Row("waits for a handler", fmt.Sprintf("%s, since %s", w.Type, w.Since.Format(time.RFC3339)))
	}
	for _, u := range r.Unhandled {
		out.Row("not taken", fmt.Sprintf("%d of type %s", u.Count, u.Type))
	}
	for _, m := range r.Members {
		if m.Member != nil && m.Sick != nil {
			out.Row("sick", fmt.Sprintf("%s, since %s: %s", m.Name, m.Sick.Since.Format(time.RFC3339), m.Sick.Reason))
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(cmd.OutOrStdout())
	out = terminal.NewTable(cmd.OutOrStdout(), "CONSUMER", "STATE", "HOST", "PID", "VERSION", "IN FLIGHT", "PENDING", "HANDLED", "FAILED")
	out.Less = []string{"VERSION", "HOST", "PID", "PENDING"}
	for _, m := range r.Members {
		about := pipeline.Member{}
		if m.Member != nil {
			about = *m.Member
		}
		out.Row(m.Name, m.State, about.Host, about.PID, about.Version, about.InFlight, m.Pending, about.Handled, about.Failed)
	}
	return out.Flush()
}

func (g *groupVerb) pause(cmd *cobra.Command, args []string) error {
	return g.change(cmd, args, "paused", "is paused already", func(b *pipeline.Bus, stream, group string) (bool, error) {
		return b.PauseGroup(cmd.Context(), stream, group, g.reason)
	})
}

func (g *groupVerb) resume(cmd *cobra.Command, args []string) error {
	return g.change(cmd, args, "resumed", "is not paused", func(b *pipeline.Bus, stream, group string) (bool, error) {
		return b.ResumeGroup(cmd.Context(), stream, group)
	})
}

func (g *groupVerb) change(cmd *cobra.Command, args []string, done, already string, do func(*pipeline.Bus, string, string) (bool, error)) error {
	stream, group, err := streamAndGroup(args)
	if err != nil {
		return err
	}
	bus, err := g.changing(cmd.Context(), cmd)
	if err != nil {
		return err
	}
	defer closeBus(bus)
	changed, err := do(bus, stream, group)
	if err != nil {
		return g.whichIsMissing(cmd.Context(), bus, stream, err)
	}
	if !changed {
		done = already
		// A second reason is not kept: who gives one has to see the first.
		if r, err := bus.Group(cmd.Context(), stream, group); err == nil && r.Paused != nil {
			done += fmt.Sprintf(", by %s since %s: %s", r.Paused.By, r.Paused.Since.Format(time.RFC3339), orDash(r.Paused.Reason))
		}
	}
	if g.json {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"stream": stream, "group": group, "changed": changed})
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "group %s of stream %s %s\n", group, stream, done)
	return err
}

func (g *groupVerb) retryNow(cmd *cobra.Command, args []string) error {
	stream, group, err := streamAndGroup(args)
	if err != nil {
		return err
	}
	bus, err := g.dryOr(g.dryRun, cmd)
	if err != nil {
		return err
	}
	defer closeBus(bus)
	retry, done := bus.RetryNow, "moved"
	if g.dryRun {
		retry, done = bus.Deferred, "would be moved"
	}
	moved, err := retry(cmd.Context(), stream, group)
	switch {
	case err != nil && moved > 0:
		return fmt.Errorf("%s moved, then: %w", eventsOf(moved), err)
	case err != nil:
		return g.whichIsMissing(cmd.Context(), bus, stream, err)
	}
	if moved > 0 && !g.dryRun {
		g.warnPaused(cmd, bus, stream, group)
	}
	if g.json {
		answer := map[string]any{"stream": stream, "group": group, "moved": moved, "dryRun": g.dryRun}
		return json.NewEncoder(cmd.OutOrStdout()).Encode(answer)
	}
	text := fmt.Sprintf("%s of stream %s %s to the lane of group %s", eventsOf(moved), stream, done, group)
	if moved == 0 {
		text = fmt.Sprintf("group %s of stream %s has nothing that waits for its next attempt", group, stream)
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
	return err
}

// warnPaused says that a group takes nothing now, where it is so.
func (g *groupVerb) warnPaused(cmd *cobra.Command, bus *pipeline.Bus, stream, group string) {
	r, err := bus.Group(cmd.Context(), stream, group)
	if err != nil || r.Paused == nil {
		return // the verb itself has been done
	}
	fmt.Fprintf(cmd.ErrOrStderr(),
		"the group is paused by the %s and takes nothing until \"millrace group resume %s %s\"\n",
		r.Paused.By, stream, group)
}

func (g *groupVerb) forgetType(cmd *cobra.Command, args []string) error {
	stream, group, err := streamAndGroup(args)
	if err != nil {
		return err
	}
	pattern := args[2]
	if err := pipeline.CheckPattern(pattern); err != nil {
		return usagef("type %q %w", pattern, err)
	}
	bus, err := g.changing(cmd.Context(), cmd)
	if err != nil {
		return err
	}
	defer closeBus(bus)
	forget := bus.ForgetType
	if g.dryRun {
		forget = bus.Forgettable
	}
	n, err := forget(cmd.Context(), stream, group, pattern)
	switch {
	case err != nil && n > 0:
		return fmt.Errorf("%s acknowledged unhandled, then: %w; say it again for the rest", eventsOf(n), err)
	case err != nil:
		return g.whichIsMissing(cmd.Context(), bus, stream, err)
	}
	if g.json {
		answer := map[string]any{
			"stream": stream, "group": group, "pattern": pattern, "acknowledged": n, "dryRun": g.dryRun,
		}
		return json.NewEncoder(cmd.OutOrStdout()).Encode(answer)
	}
	text := "group %s of stream %s does not take %s any more; %s acknowledged unhandled\n"
	if g.dryRun {
		text = "group %s of stream %s would not take %s any more; %s would be acknowledged unhandled\n"
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), text, group, stream, pattern, eventsOf(n))
	return err
}
