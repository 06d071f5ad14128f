package main

import (
	"context"

	"github.com/rishi-platform/millrace/handlers"
	"github.com/rishi-platform/millrace/pipeline"
	"github.com/spf13/cobra"
)

func newTailCommand(o *options) *cobra.Command {
	var from string
	cmd := &cobra.Command{
		Use:   "tail [PATTERN]",
		Short: "Follow events live",
		Long:  "Follow events live, one line each, until Ctrl-C. Without PATTERN all events but those of Millrace itself (system.*).\n\n" + patternHelp,
		Example: `  millrace tail
  millrace tail 'booking.*' --from 10m
  millrace tail --from oldest --json | jq .data`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			query := pipeline.Query{Follow: true, Patterns: []string{"**"}}
			given, err := patterns(args)
			if err != nil {
				return err
			}
			if len(given) > 0 {
				query.Patterns = given
			}
			start, err := parseFrom(from)
			if err != nil {
				return err
			}
			return o.tail(cmd, query.Patterns, start)
		},
	}
	o.addRedisFlags(cmd.Flags())
	o.addJSONFlag(cmd.Flags())
	cmd.Flags().StringVar(&from, "from", "now", "where to begin: oldest, now, a position such as 1764000000000-0 (the event there included), or a duration ago such as 10m")
	return cmd
}

// tail prints events until ctx ends, or they can't be printed any more.
func (o *options) tail(cmd *cobra.Command, patterns []string, from pipeline.Position) error {
	bus, err := o.oneShot(cmd.Context(), cmd)
	if err != nil {
		return err
	}
	defer closeBus(bus)
	line := handlers.TextLine
	if o.json {
		line = handlers.JSONLine
	}
	ctx, cancel := context.WithCancelCause(cmd.Context())
	defer cancel(nil)
	_, err = bus.Subscribe(ctx, pipeline.Subscription{Patterns: patterns, From: from}, func(ctx context.Context, _ pipeline.Event) error {
		text, err := line(*pipeline.CurrentRecord(ctx))
		if err == nil {
			_, err = cmd.OutOrStdout().Write(text)
		}
		if err != nil {
			cancel(err)
		}
		return err
	})
	if err != nil {
		return err
	}
	<-ctx.Done()
	if cmd.Context().Err() != nil {
		return nil // told to stop
	}
	return context.Cause(ctx)
}
