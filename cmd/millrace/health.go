package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/rishi-platform/millrace/internal/terminal"
	"github.com/rishi-platform/millrace/pipeline"
	"github.com/spf13/cobra"
)

var errUnhealthy = errors.New("unhealthy")

func newHealthCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Report on a server, or on Redis and the streams on it",
		Long: `Report on a server (--server), or on Redis and the streams on it. Prints JSON; exit code 1 when unhealthy.

It says what waits for whom: streams, groups, consumers, lag, what is pending, deferred or lost, and what to do about it.`,
		Example: `  millrace health --server http://127.0.0.1:8080
  millrace health --redis redis://localhost | jq .problems`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.checkLimits(cmd); err != nil {
				return err
			}
			report, err := o.health(cmd)
			if err != nil {
				return err
			}
			var text bytes.Buffer
			if o.json {
				err = json.Compact(&text, report)
			} else {
				err = json.Indent(&text, report, "", "  ")
			}
			if err != nil {
				return fmt.Errorf("read health: %w", err)
			}
			fmt.Fprintln(cmd.OutOrStdout(), terminal.JSON(text.String()))
			var h pipeline.Health
			if err := json.Unmarshal(report, &h); err != nil {
				return fmt.Errorf("read health: %w", err)
			}
			if h.Status == pipeline.StatusUnhealthy {
				return errUnhealthy
			}
			return nil
		},
	}
	o.addRedisFlags(cmd.Flags())
	o.addServerFlag(cmd.Flags())
	o.addHealthFlags(cmd.Flags())
	o.addJSONFlag(cmd.Flags())
	return cmd
}

// health returns the report as JSON.
func (o *options) health(cmd *cobra.Command) ([]byte, error) {
	ctx, cancel := context.WithTimeout(cmd.Context(), oneShotTimeout)
	defer cancel()
	if o.server != "" {
		client, err := newServerClient(o.server)
		if err != nil {
			return nil, err
		}
		return client.do(ctx, http.MethodGet, "/api/events/health", nil, nil, nil, http.StatusServiceUnavailable)
	}
	bus, err := o.openOnce(ctx, cmd, true)
	if err != nil {
		return nil, err
	}
	defer closeBus(bus)
	return json.Marshal(bus.Health(ctx))
}
