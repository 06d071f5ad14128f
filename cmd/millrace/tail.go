package main

import (
	"context"
	"fmt"

	"github.com/rishi-platform/millrace/internal/terminal"
	"github.com/rishi-platform/millrace/pipeline"
	"github.com/spf13/cobra"
)

func newTailCommand(o *options) *cobra.Command {
	var from, resume string
	cmd := &cobra.Command{
		Use:   "tail [PATTERN]",
		Short: "Follow events live",
		Long: "Follow events live, one line each and one with the payload, until Ctrl-C. Without PATTERN all events but those of Millrace itself (system.*).\n\n" +
			"With --resume FILE it keeps there once a second how far it has got, and goes on from there when it is started again: nothing is left out, what was printed in the last second before a crash comes again, and it says how many events were removed meanwhile.\n\n" + patternHelp,
		Example: `  millrace tail
  millrace tail 'booking.*' --from 10m
  millrace tail --from oldest --json | jq .data
  millrace tail --resume tail.cursor --json >> events.jsonl`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s := pipeline.Subscription{Patterns: []string{"**"}}
			given, err := patterns(args)
			if err != nil {
				return err
			}
			if len(given) > 0 {
				s.Patterns = orStream(given)
			}
			if s.From, err = parseFrom(from); err != nil {
				return err
			}
			if resume != "" {
				if s.After, err = readCursor(resume); err != nil {
					return err
				}
			}
			if s.After != "" {
				s.From = ""
			}
			return o.tail(cmd, s, resume)
		},
	}
	o.addRedisFlags(cmd.Flags())
	o.addLineFlags(cmd.Flags())
	cmd.Flags().StringVar(&from, "from", "now", "where to begin: oldest, now, a position such as 1764000000000-0 (the event there included), a time, a date, or how long ago, such as 10m or 1d")
	cmd.Flags().StringVar(&resume, "resume", "", "keep in this `file` how far it has got, and go on from there at the next start; --from says where to begin the first time")
	return cmd
}

// tail prints events until ctx ends, or they can't be printed any more, and keeps in a file, if it has a name, how far it has got.
func (o *options) tail(cmd *cobra.Command, s pipeline.Subscription, file string) error {
	bus, err := o.reading(cmd.Context(), cmd)
	if err != nil {
		return err
	}
	line := o.line(cmd.OutOrStdout())
	ctx, cancel := context.WithCancelCause(cmd.Context())
	defer cancel(nil)
	kept := &keptCursor{file: file}
	s.Gap = func(g pipeline.Gap) { _, _ = fmt.Fprintln(cmd.ErrOrStderr(), "millrace: "+terminal.Escape(gapText(g))) }
	id, err := bus.Subscribe(ctx, s, func(ctx context.Context, _ pipeline.Event) error {
		text, err := line(*pipeline.CurrentRecord(ctx))
		if err == nil {
			err = kept.after(ctx, func() error { _, err := cmd.OutOrStdout().Write(text); return err })
		}
		if err != nil {
			cancel(err)
		}
		return err
	})
	if err != nil {
		closeBus(bus)
		return err
	}
	if err := kept.keep(ctx, func() (pipeline.Cursor, error) { return bus.Cursor(id) }); err != nil {
		cancel(err)
	}
	<-ctx.Done()
	closeBus(bus) // which waits for the function
	if err := kept.write(); err != nil {
		return err
	}
	if cmd.Context().Err() != nil {
		return nil // told to stop
	}
	return context.Cause(ctx)
}

func gapText(g pipeline.Gap) string {
	missed := "events"
	if g.Missed > 0 {
		missed = fmt.Sprintf("%d events", g.Missed)
	}
	if g.Reason == pipeline.GapRecreated {
		return fmt.Sprintf("stream %s was deleted, or has lost its end: %s behind %s may be missing", g.Stream, missed, g.After)
	}
	return fmt.Sprintf("%s of stream %s behind %s were removed before they could be printed", missed, g.Stream, g.After)
}
