package main

import (
	"context"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/rishi-platform/millrace/internal/units"
	"github.com/rishi-platform/millrace/pipeline"
	"github.com/spf13/cobra"
)

// historyVerb is one run of "millrace history".
type historyVerb struct {
	*options
	query        pipeline.Query
	since, until string
	order        string
}

const historyLimit = 1000

func newHistoryCommand(o *options) *cobra.Command {
	h := &historyVerb{options: o}
	cmd := &cobra.Command{
		Use:   "history [PATTERN]",
		Short: "Look at what was published",
		Long:  "Look at what was published, the newest first unless --order says otherwise.\n\n" + patternHelp,
		Example: `  millrace history --since 1h
  millrace history 'booking.*' --subject booking/1 --order asc
  millrace history --correlation-id abc-1 --json`,
		Args: cobra.MaximumNArgs(1),
		RunE: h.run,
	}
	o.addRedisFlags(cmd.Flags())
	o.addServerFlag(cmd.Flags())
	o.addLineFlags(cmd.Flags())
	f := cmd.Flags()
	f.StringVar(&h.since, "since", "", "stored at this time or later: RFC 3339, a date, or how long ago, such as 2h or 1d")
	f.StringVar(&h.until, "until", "", "stored before this time, likewise")
	f.StringVar(&h.query.Subject, "subject", "", "of this subject")
	f.StringVar(&h.query.CorrelationID, "correlation-id", "", "of this correlation ID")
	f.StringVar(&h.query.OrganizationID, "organization-id", "", "of this tenant")
	f.IntVar(&h.query.Limit, "limit", 50, "at most so many, 1 to 1000")
	f.StringVar(&h.order, "order", "desc", "desc: the newest first, asc: the oldest first")
	return cmd
}

const patternHelp = `A PATTERN is an event type in which * stands for one segment and ** at the end for one or more: 'booking.*', '**'. The name of a
stream, 'booking', is all of its events.`

func (h *historyVerb) run(cmd *cobra.Command, args []string) error {
	if err := h.prepare(args); err != nil {
		return err
	}
	line := h.line(cmd.OutOrStdout())
	show := func(r pipeline.Record) error {
		text, err := line(r)
		if err == nil {
			_, err = cmd.OutOrStdout().Write(text)
		}
		return err
	}
	if h.server != "" {
		client, err := newServerClient(h.server)
		if err != nil {
			return err
		}
		return client.history(cmd.Context(), h.values(), h.query.Limit, show)
	}
	bus, err := h.reading(cmd.Context(), cmd)
	if err != nil {
		return err
	}
	defer closeBus(bus)
	for r, err := range bus.History(cmd.Context(), h.query) {
		if err != nil {
			return h.failed(err)
		}
		if err := show(r); err != nil {
			return err
		}
	}
	return nil
}

// failed gives an end by a signal no error.
func (h *historyVerb) failed(err error) error {
	if err == context.Canceled {
		return nil
	}
	return err
}

// prepare checks the arguments.
func (h *historyVerb) prepare(args []string) (err error) {
	if h.query.Patterns, err = patterns(args); err != nil {
		return err
	}
	h.query.Patterns = orStream(h.query.Patterns)
	if h.query.Limit < 1 || h.query.Limit > historyLimit {
		return usagef("--limit %d: want 1 to %d", h.query.Limit, historyLimit)
	}
	switch h.order {
	case "desc":
		h.query.Newest = true
	case "asc":
	default:
		return usagef("--order %q: want asc or desc", h.order)
	}
	if h.query.Since, err = parseTime("--since", h.since); err != nil {
		return err
	}
	h.query.Until, err = parseTime("--until", h.until)
	return err
}

// values is the query as the HTTP API has it.
func (h *historyVerb) values() url.Values {
	values := url.Values{"eventType": h.query.Patterns, "limit": {strconv.Itoa(h.query.Limit)}, "order": {h.order}}
	for name, value := range map[string]string{
		"subject": h.query.Subject, "correlationId": h.query.CorrelationID, "organizationId": h.query.OrganizationID, "since": h.since, "until": h.until,
	} {
		if value != "" {
			values.Set(name, value)
		}
	}
	return values
}

// patterns checks event type patterns.
func patterns(args []string) ([]string, error) {
	for _, p := range args {
		if err := pipeline.CheckPattern(p); err != nil {
			return nil, usagef("pattern %q %w", p, err)
		}
	}
	return args, nil
}

// orStream has a pattern that is the name of a stream stand for all of its events.
func orStream(patterns []string) []string {
	var all []string
	for _, p := range patterns {
		all = append(all, p)
		if !strings.ContainsAny(p, ".*") {
			all = append(all, p+".**")
		}
	}
	return all
}

// parseTime reads a time, or how long ago it was.
func parseTime(flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	t, err := units.Time(text, time.Now())
	if err != nil {
		return t, usagef("%s %q: %w", flag, text, err)
	}
	return t, nil
}

// parseFrom reads a place to begin at: oldest, now, a position, or a time.
func parseFrom(text string) (pipeline.Position, error) {
	position, err := pipeline.ParsePosition(text)
	if err == nil {
		return position, nil
	}
	if t, timeErr := units.Time(text, time.Now()); timeErr == nil {
		return pipeline.At(t), nil
	}
	return "", usagef("--from: %w, or a date, or how long ago, such as 2h or 1d", err)
}
