package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/rishi-platform/millrace/internal/terminal"
	"github.com/rishi-platform/millrace/pipeline"
)

// spoolVerb is one run of "millrace spool …".
type spoolVerb struct {
	*options
	dataDir string
	stream  string
	yes     bool
	dryRun  bool
	adopt   bool
}

func newSpoolCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "spool",
		Short: "Look at events that were accepted while Redis was away, and drain them",
		Long: `Look at the spools in a data folder: events that servers accepted while Redis was away. Each process has a slot of its own and drains it
when Redis is back; a slot whose process has died is drained by the next one that starts, or by "millrace spool drain". A slot belongs to one Redis, by an ID
that is kept there, or by the address that its process was given: "spool drain --adopt-foreign" brings its events to another one.

What Redis refuses for good (a stream whose key holds another type, say) stays in the spool until that is mended. Where nobody will, "spool discard"
takes the events of that stream out; they are counted as lost.`,
		Example: `  millrace spool ls --data-dir /var/lib/millrace
  millrace spool drain --data-dir /var/lib/millrace --redis redis://localhost
  millrace spool export --data-dir /var/lib/millrace >events.jsonl
  millrace spool discard --data-dir /var/lib/millrace --stream order --dry-run`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return usagef("spool needs a verb: ls, drain, export, discard") },
	}
	for _, verb := range []struct {
		use, short string
		redis      bool
		run        func(s *spoolVerb, cmd *cobra.Command) error
	}{
		{"ls", "List the slots of a data folder and what they hold", false, (*spoolVerb).ls},
		{"drain", "Bring what dead processes have left to Redis", true, (*spoolVerb).drain},
		{"export", "Print all events that stand in the slots, as CloudEvents", false, (*spoolVerb).export},
		{"discard", "Take the events of a stream out of slots that no process has", false, (*spoolVerb).discard},
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
			one.Flags().BoolVar(&s.adopt, "adopt-foreign", false, "drain what was for another Redis as well, or for this one at another address")
		}
		if verb.use == "discard" {
			one.Flags().StringVar(&s.stream, "stream", "", "whose events")
			one.Flags().StringVar(&s.namespace, "namespace", "", "prefix of every key")
			one.Flags().BoolVar(&s.yes, "yes", false, "discard them for good")
			one.Flags().BoolVar(&s.dryRun, "dry-run", false, "only say how many there are")
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
	table := terminal.NewTable(cmd.OutOrStdout(), "SLOT", "REDIS", "PROCESS", "EVENTS", "BYTES", "OLDEST")
	table.Less = []string{"BYTES"}
	for _, slot := range slots {
		process, oldest := "none", "-"
		if slot.InUse {
			process = "lives"
		}
		if slot.Oldest != nil {
			oldest = slot.Oldest.UTC().Format(time.RFC3339)
		}
		table.Row(filepath.Join(slot.Namespace, filepath.Base(slot.Dir)), cmp.Or(slot.Server, "?"), process, slot.Events, slot.Bytes, oldest)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, slot := range slots {
		if slot.Trouble != "" {
			fmt.Fprintf(cmd.ErrOrStderr(), "%s: can't be drained: %s\n", slot.Dir, terminal.Escape(slot.Trouble))
		}
	}
	return nil
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

// drain opens a bus as a server does, which takes what nobody has, and waits until nothing of that is left, or the rest can't be drained.
func (s *spoolVerb) drain(cmd *cobra.Command) error {
	redis, given, err := s.redisAddress(cmd)
	if err != nil {
		return err
	}
	if !given {
		return errNoAddress("drain", false)
	}
	cfg := s.config(redis)
	cfg.SpoolDir = s.dataDir
	server, err := pipeline.FindSpoolServer(cmd.Context(), cfg)
	if err != nil {
		return err
	}
	stay, err := s.staying(cmd, server)
	if err != nil {
		return err
	}
	left, err := s.orphans(server)
	if err != nil || left == 0 {
		return s.say(cmd, 0, stay, err)
	}
	cfg.Logger = slog.New(slog.DiscardHandler) // what it would say is said below
	var lost atomic.Int64
	cfg.Hooks.Lost = func(l pipeline.Loss) { // this process is the one that tells it
		lost.Add(int64(l.Events))
		of := ""
		if l.Stream != "" {
			of = " of stream " + l.Stream
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "%s%s are lost: %s\n", eventsOf(l.Events), of, l.Reason)
	}
	bus, err := pipeline.Open(cmd.Context(), cfg)
	if err != nil {
		return err
	}
	defer closeBus(bus)
	line := newProgress(os.Stderr, left)
	defer line.end()
	rest, since := left, time.Now() // when it was so many first
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
		orphans, err := s.orphans(server)
		if err != nil {
			return err
		}
		now := int(h.Spool.Events) + orphans
		if line.at(left - now); now < rest {
			rest, since = now, time.Now()
		}
		quiet++
		if now > 0 || h.Spool.Opening > 0 {
			quiet = 0
		}
		if stuck := stuckText(h); len(stuck) > 0 && time.Since(since) > stuckAfter {
			stay = append(stay, stuck...)
			break
		}
	}
	err = s.say(cmd, left-rest, stay, nil)
	if n := lost.Load(); err == nil && n > 0 {
		err = fmt.Errorf("%s are lost, at least", eventsOf(int(n)))
	}
	return err
}

// stuckAfter is for how long nothing may have been drained before what is left is given up.
const stuckAfter = 2 * time.Second

// stuckText is why events can't be drained.
func stuckText(h pipeline.Health) (why []string) {
	for _, p := range h.Problems {
		if p.Code == "spool-stuck" {
			why = append(why, p.Text+"; "+p.Hint)
		}
	}
	return why
}

// say says how many events were drained, and fails where some stay, for the reasons given.
func (s *spoolVerb) say(cmd *cobra.Command, drained int, stay []string, err error) error {
	switch {
	case err != nil:
		return err
	case s.json:
		err = json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]int{"drained": drained})
	case drained == 0 && len(stay) > 0:
	case drained == 0:
		_, err = fmt.Fprintln(cmd.OutOrStdout(), "nothing to drain")
	default:
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s drained\n", eventsOf(drained))
	}
	if err == nil && len(stay) > 0 {
		err = errors.New(strings.Join(stay, "; "))
	}
	return err
}

// mine are the slots of this namespace.
func (s *spoolVerb) mine() (mine []pipeline.SpoolSlot, err error) {
	namespace := s.namespace
	if namespace == "" {
		namespace = "default"
	}
	slots, err := s.slots()
	for _, slot := range slots {
		if slot.Namespace == namespace {
			mine = append(mine, slot)
		}
	}
	return mine, err
}

// orphans is how many events for a Redis stand in slots of this namespace that no living process has.
func (s *spoolVerb) orphans(server pipeline.SpoolServer) (n int, err error) {
	slots, err := s.mine()
	for _, slot := range slots {
		if !slot.InUse && server.Drains(slot) {
			n += slot.Events
		}
	}
	return n, err
}

// staying returns what is not drained and why, after it has made what is for another Redis this one's, where that is wanted.
func (s *spoolVerb) staying(cmd *cobra.Command, server pipeline.SpoolServer) (stay []string, err error) {
	slots, err := s.mine()
	if err != nil {
		return nil, err
	}
	if s.adopt {
		for _, slot := range slots {
			if !slot.InUse && !server.Drains(slot) && (slot.Events > 0 || slot.Trouble != "") {
				_ = pipeline.AssignSpool(slot.Dir, server) // what stays is told below
			}
		}
		if slots, err = s.mine(); err != nil {
			return nil, err
		}
	}
	for _, slot := range slots {
		if slot.Events == 0 && slot.Trouble == "" || !slot.InUse && server.Drains(slot) {
			continue
		}
		if slot.InUse {
			fmt.Fprintf(cmd.ErrOrStderr(), "%s: a running process has it, and drains its %s\n", slot.Dir, eventsOf(slot.Events))
			continue
		}
		why := slot.Trouble
		if why == "" {
			why = fmt.Sprintf("they are for %s, which is not %s", slot.Server, server.Address)
		}
		if !s.adopt && (slot.Trouble == "" || slot.Server == "") {
			why += ": if that is the same one, or they are to go there, say --adopt-foreign"
		}
		stay = append(stay, fmt.Sprintf("%s: %s stay: %s", slot.Dir, eventsOf(slot.Events), why))
	}
	return stay, nil
}

// discard takes the events of a stream out.
func (s *spoolVerb) discard(cmd *cobra.Command) error {
	switch {
	case s.stream == "":
		return usagef("spool discard needs to know which events: give --stream NAME")
	case pipeline.CheckStream(s.stream) != nil:
		return usagef("stream %q %w", s.stream, pipeline.CheckStream(s.stream))
	case !s.yes && !s.dryRun:
		return usagef("spool discard deletes events that were accepted, for good: say --yes, or look first with --dry-run")
	}
	slots, err := s.mine()
	if err != nil {
		return err
	}
	for _, slot := range slots {
		if slot.InUse && slot.Events > 0 {
			return fmt.Errorf("%s: a running process has it: stop that, discard, and start it again", slot.Dir)
		}
	}
	total := 0
	for _, slot := range slots {
		if slot.Events == 0 || slot.InUse {
			continue
		}
		n, err := pipeline.DiscardSpooled(slot.Dir, s.stream, s.dryRun)
		if total += n; err != nil {
			return fmt.Errorf("up to %s discarded, then: %w", eventsOf(total), err)
		}
	}
	if s.json {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"discarded": total, "dryRun": s.dryRun})
	}
	done := "discarded; the next process that starts there tells them as lost (some may be in Redis already)"
	if s.dryRun {
		done = "would be discarded"
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s of stream %s %s\n", eventsOf(total), s.stream, done)
	return err
}
