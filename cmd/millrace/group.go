package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/rishi-platform/millrace/pipeline"
	"github.com/spf13/cobra"
)

// groupVerb is one run of "millrace group ls", "info", "pause" or "resume".
type groupVerb struct {
	*options
	reason string
}

func newGroupCommand(o *options) *cobra.Command {
	group := &cobra.Command{
		Use:   "group",
		Short: "Look at consumer groups, pause and resume them",
		Long: `Look at the consumer groups of the streams, what they have left to do and who works for them; pause and resume them.
A group that is paused finishes what it handles and takes nothing new. A group of which nearly everything fails for one reason
pauses by itself, and tries one event from time to time.`,
		Example: `  millrace group ls
  millrace group info booking billing
  millrace group pause booking billing --reason 'database migration'
  millrace group resume booking billing`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	add := func(use, short string, args cobra.PositionalArgs, run func(*groupVerb) func(*cobra.Command, []string) error) *groupVerb {
		g := &groupVerb{options: o}
		cmd := &cobra.Command{Use: use, Short: short, Args: args, RunE: run(g), ValidArgsFunction: o.completeGroups}
		o.addRedisFlags(cmd.Flags())
		o.addJSONFlag(cmd.Flags())
		if strings.HasPrefix(use, "pause") {
			cmd.Flags().StringVar(&g.reason, "reason", "", "why, for those who wonder")
		}
		group.AddCommand(cmd)
		return g
	}
	add("ls [STREAM]", "List groups and what they have left to do", cobra.MaximumNArgs(1), func(g *groupVerb) func(*cobra.Command, []string) error { return g.list })
	add("info STREAM GROUP", "Describe one group and its consumers", cobra.ExactArgs(2), func(g *groupVerb) func(*cobra.Command, []string) error { return g.info })
	add("pause STREAM GROUP", "Keep a group from taking events of a stream", cobra.ExactArgs(2), func(g *groupVerb) func(*cobra.Command, []string) error { return g.pause })
	add("resume STREAM GROUP", "End the pause of a group", cobra.ExactArgs(2), func(g *groupVerb) func(*cobra.Command, []string) error { return g.resume })
	return group
}

// completeGroups completes a stream, and a group of it, by what the server has.
func (o *options) completeGroups(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	bus, err := o.oneShot(cmd.Context(), cmd)
	if err != nil || len(args) > 1 {
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

// groupLine is a group as "group ls --json" prints it.
type groupLine struct {
	Stream string `json:"stream"`
	pipeline.GroupHealth
}

func (g *groupVerb) list(cmd *cobra.Command, args []string) error {
	bus, err := g.oneShot(cmd.Context(), cmd)
	if err != nil {
		return err
	}
	defer closeBus(bus)
	h := bus.Health(cmd.Context())
	for _, p := range h.Problems {
		if p.Code == "redis-error" || p.Code == "streams-unknown" {
			return errors.New(p.Text)
		}
	}
	out := json.NewEncoder(cmd.OutOrStdout())
	table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	if !g.json {
		fmt.Fprintln(table, "STREAM\tGROUP\tCONSUMERS\tLAG\tPENDING\tDEFERRED\tDEAD\tSTATE\tPATTERNS")
	}
	found := false
	for _, s := range h.Streams {
		if len(args) == 1 && s.Name != args[0] {
			continue
		}
		found = true
		for _, one := range s.Groups {
			if g.json {
				if err := out.Encode(groupLine{s.Name, one}); err != nil {
					return err
				}
				continue
			}
			fmt.Fprintf(table, "%s\t%s\t%d\t%s\t%d\t%d\t%d\t%s\t%s\n", s.Name, one.Name, one.Consumers, number(one.Lag), one.Pending, one.Deferred, one.Dead,
				stateOf(one), strings.Join(one.Patterns, " "))
		}
	}
	if len(args) == 1 && !found {
		return fmt.Errorf("there is no stream %s", args[0])
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
	bus, err := g.oneShot(cmd.Context(), cmd)
	if err != nil {
		return err
	}
	defer closeBus(bus)
	r, err := bus.Group(cmd.Context(), stream, group)
	if err != nil {
		return err
	}
	if g.json {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(r)
	}
	out := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	for _, row := range [][2]string{
		{"stream", r.Stream}, {"group", r.Name}, {"state", stateOf(r.GroupHealth)}, {"patterns", strings.Join(r.Patterns, " ")}, {"delivered up to", string(r.Delivered)},
		{"settled up to", string(r.Frontier)}, {"lag", number(r.Lag)}, {"pending", fmt.Sprint(r.Pending)}, {"deferred", fmt.Sprint(r.Deferred)}, {"lane", fmt.Sprint(r.Lane)},
		{"dead", fmt.Sprint(r.Dead)}, {"lost", number(r.Lost)},
	} {
		fmt.Fprintf(out, "%s\t%s\n", row[0], row[1])
	}
	if p := r.Paused; p != nil {
		fmt.Fprintf(out, "paused since\t%s: %s\n", p.Since.Format(time.RFC3339), p.Reason)
	}
	for _, w := range r.Waiting {
		fmt.Fprintf(out, "waits for a handler\t%s, since %s\n", w.Type, w.Since.Format(time.RFC3339))
	}
	for _, u := range r.Unhandled {
		fmt.Fprintf(out, "not taken\t%d of type %s\n", u.Count, u.Type)
	}
	fmt.Fprintln(out, "\nCONSUMER\tSTATE\tHOST\tPID\tVERSION\tIN FLIGHT\tPENDING\tHANDLED\tFAILED")
	for _, m := range r.Members {
		about := pipeline.Member{}
		if m.Member != nil {
			about = *m.Member
		}
		fmt.Fprintf(out, "%s\t%s\t%s\t%d\t%s\t%d\t%d\t%d\t%d\n", m.Name, m.State, orDash(about.Host), about.PID, orDash(about.Version), about.InFlight, m.Pending, about.Handled, about.Failed)
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
	bus, err := g.oneShot(cmd.Context(), cmd)
	if err != nil {
		return err
	}
	defer closeBus(bus)
	changed, err := do(bus, stream, group)
	if err != nil {
		return err
	}
	if !changed {
		done = already
	}
	if g.json {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"stream": stream, "group": group, "changed": changed})
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "group %s of stream %s %s\n", group, stream, done)
	return err
}
