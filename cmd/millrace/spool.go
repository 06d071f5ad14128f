package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/rishi-platform/millrace/pipeline"
)

// spoolVerb is one run of "millrace spool …".
type spoolVerb struct {
	*options
	dataDir string
}

func newSpoolCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "spool",
		Short: "Look at events that were accepted while Redis was away, and drain them",
		Long: `Look at the spools in a data folder: events that servers accepted while Redis was away. Each process has a slot of its own and drains it
when Redis is back; a slot whose process has died is drained by the next one that starts, or by "millrace spool drain".`,
		Example: `  millrace spool ls --data-dir /var/lib/millrace
  millrace spool drain --data-dir /var/lib/millrace --redis redis://localhost
  millrace spool export --data-dir /var/lib/millrace >events.jsonl`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return usagef("spool needs a verb: ls, drain, export") },
	}
	for _, verb := range []struct {
		use, short string
		redis      bool
		run        func(s *spoolVerb, cmd *cobra.Command) error
	}{
		{"ls", "List the slots of a data folder and what they hold", false, (*spoolVerb).ls},
		{"drain", "Bring what dead processes have left to Redis", true, (*spoolVerb).drain},
		{"export", "Print all events that stand in the slots, as CloudEvents", false, (*spoolVerb).export},
	} {
		s := &spoolVerb{options: o}
		one := &cobra.Command{Use: verb.use, Short: verb.short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			if s.dataDir == "" {
				return usagef("spool %s needs to know the folder: give --data-dir DIR, or set MILLRACE_DATA_DIR", verb.use)
			}
			return verb.run(s, cmd)
		}}
		one.Flags().StringVar(&s.dataDir, "data-dir", "", "data folder of the servers")
		if verb.redis {
			o.addRedisFlags(one.Flags())
		}
		o.addJSONFlag(one.Flags())
		cmd.AddCommand(one)
	}
	return cmd
}

func (s *spoolVerb) slots() ([]pipeline.SpoolSlot, error) {
	slots, err := pipeline.SpoolSlots(s.dataDir)
	if err != nil {
		return nil, fmt.Errorf("read spools: %w", err)
	}
	return slots, nil
}

func (s *spoolVerb) ls(cmd *cobra.Command) error {
	slots, err := s.slots()
	if err != nil {
		return err
	}
	if s.json {
		enc := json.NewEncoder(cmd.OutOrStdout())
		for _, slot := range slots {
			if err := enc.Encode(slot); err != nil {
				return err
			}
		}
		return nil
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DIR\tNAMESPACE\tREDIS\tPROCESS\tEVENTS\tBYTES\tOLDEST")
	for _, slot := range slots {
		process, oldest := "none", "-"
		if slot.InUse {
			process = "lives"
		}
		if slot.Oldest != nil {
			oldest = slot.Oldest.Local().Format(time.DateTime)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%s\n", slot.Dir, slot.Namespace, slot.Server, process, slot.Events, slot.Bytes, oldest)
	}
	return w.Flush()
}

func (s *spoolVerb) export(cmd *cobra.Command) error {
	slots, err := s.slots()
	if err != nil {
		return err
	}
	enc := json.NewEncoder(cmd.OutOrStdout())
	enc.SetEscapeHTML(false)
	for _, slot := range slots {
		for event, err := range pipeline.SpooledEvents(slot.Dir) {
			if err != nil {
				return fmt.Errorf("read %s: %w", slot.Dir, err)
			}
			if err := enc.Encode(event); err != nil {
				return err
			}
		}
	}
	return nil
}

// drain opens a bus as a server does, which takes what nobody has, and waits until nothing of that is left.
func (s *spoolVerb) drain(cmd *cobra.Command) error {
	redis, given, err := s.redisAddress(cmd)
	if err != nil {
		return err
	}
	if !given {
		return errNoAddress("drain", false)
	}
	left, err := s.orphans()
	if err != nil || left == 0 {
		return s.say(cmd, 0, err)
	}
	cfg := s.config(redis)
	cfg.SpoolDir = s.dataDir
	cfg.Logger = slog.New(slog.DiscardHandler) // what it would say is said below
	bus, err := pipeline.Open(cmd.Context(), cfg)
	if err != nil {
		return err
	}
	defer closeBus(bus)
	line := newProgress(os.Stderr, left)
	defer line.end()
	for quiet := 0; quiet < 2; {
		select {
		case <-cmd.Context().Done():
			return fmt.Errorf("drain was interrupted: what is left is drained by whoever starts next")
		case <-time.After(200 * time.Millisecond):
		}
		h := bus.Health(cmd.Context())
		if h.State == pipeline.StateSpooling {
			return fmt.Errorf("redis is away: %s", h.Redis.LastError)
		}
		orphans, err := s.orphans()
		if err != nil {
			return err
		}
		line.at(left - int(h.Spool.Events) - orphans)
		quiet++
		if h.Spool.Events > 0 || orphans > 0 {
			quiet = 0
		}
		for _, p := range h.Problems {
			if p.Code == "spool-stuck" {
				return fmt.Errorf("%s; %s", p.Text, p.Hint)
			}
		}
	}
	return s.say(cmd, left, nil)
}

func (s *spoolVerb) say(cmd *cobra.Command, drained int, err error) error {
	switch {
	case err != nil:
		return err
	case s.json:
		return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]int{"drained": drained})
	case drained == 0:
		_, err = fmt.Fprintln(cmd.OutOrStdout(), "nothing to drain")
	default:
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d events drained\n", drained)
	}
	return err
}

// orphans is how many events stand in slots of this namespace that no living process has.
func (s *spoolVerb) orphans() (n int, err error) {
	namespace := s.namespace
	if namespace == "" {
		namespace = "default"
	}
	slots, err := s.slots()
	for _, slot := range slots {
		if !slot.InUse && slot.Namespace == namespace {
			n += slot.Events
		}
	}
	return n, err
}
