package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/rishi-platform/millrace/pipeline"
	"github.com/spf13/cobra"
)

// publishVerb is one run of "millrace publish".
type publishVerb struct {
	*options
	event   pipeline.Event // what each event is made from
	headers []string
	count   int
	once    bool
	key     string
	out     io.Writer
	send    func(context.Context, []pipeline.Event) ([]receipt, error)
}

// maxKey is how long an idempotency key may be, and maxEventID the ID of an event.
const maxKey, maxEventID = 255, 256

// publishBatch is how many events go in one call: large enough to be fast, small enough to show progress.
const publishBatch = 100

func newPublishCommand(o *options) *cobra.Command {
	p := &publishVerb{options: o}
	cmd := &cobra.Command{
		Use:   "publish TYPE [JSON | -]",
		Short: "Publish events",
		Long: `Publish events and print a receipt for each: how durable it is, and where it stands.

Without JSON an event has no data; with - each line of stdin is the payload of one event. While Redis is away nothing is
published and the exit code is 1.

An event with an --id is published once: a repetition within 10 minutes prints the first receipt, as "duplicate", and one with other
content is refused. --key does so for 24 hours, with an ID of Millrace's own.

Run by a command of "millrace work --exec", it takes correlation and causation from the event that the command handles.`,
		Example: `  millrace publish booking.created '{"id":1}' --subject booking/1
  millrace publish booking.created --count 1000
  millrace publish invoice.issued '{"id":7}' --key invoice-7
  jq -c '.[]' bookings.json | millrace publish booking.created - --json`,
		Args: cobra.RangeArgs(1, 2),
		RunE: p.run,
	}
	o.addRedisFlags(cmd.Flags())
	o.addServerFlag(cmd.Flags())
	o.addJSONFlag(cmd.Flags())
	f := cmd.Flags()
	f.StringVar(&p.event.Subject, "subject", "", "what the event is about; events of one subject keep their order")
	f.StringVar(&p.event.CorrelationID, "correlation-id", "", "correlation ID (default: MILLRACE_CORRELATION_ID, else a new one)")
	f.StringVar(&p.event.OrganizationID, "organization-id", "", "tenant")
	f.StringVar(&p.event.UserID, "user-id", "", "who caused it")
	f.StringVar(&p.event.ID, "id", "", "event ID (default: a new one)")
	f.StringVar(&p.event.ContentType, "content-type", pipeline.ContentTypeJSON, "content type of the data; data that is not JSON is not checked")
	f.StringArrayVar(&p.headers, "header", nil, "NAME=VALUE, may be repeated")
	f.BoolVar(&p.once, "once", true, "with --id: publish it only once within 10 minutes, and refuse other content; a server always does")
	f.StringVar(&p.key, "key", "", "idempotency key: whoever repeats it within 24 hours gets the first answer again")
	f.IntVar(&p.count, "count", 1, "publish that many events, each with its own ID")
	return cmd
}

func (p *publishVerb) run(cmd *cobra.Command, args []string) error {
	p.out = cmd.OutOrStdout()
	if err := p.prepare(args); err != nil {
		return err
	}
	events := p.counted
	if len(args) == 2 && args[1] == "-" {
		events = func(ctx context.Context, yield func([]pipeline.Event) error) error {
			return p.lines(ctx, cmd.InOrStdin(), yield)
		}
	}
	ctx := cmd.Context()
	if p.server != "" {
		client, err := newServerClient(p.server)
		if err != nil {
			return err
		}
		p.send = func(ctx context.Context, events []pipeline.Event) ([]receipt, error) {
			return client.publish(ctx, p.key, events)
		}
	} else {
		bus, err := p.publishing(ctx, cmd)
		if err != nil {
			return err
		}
		defer closeBus(bus)
		p.send = func(ctx context.Context, events []pipeline.Event) ([]receipt, error) {
			ctx, cancel := context.WithTimeout(ctx, oneShotTimeout)
			defer cancel()
			r, err := bus.PublishWith(ctx, pipeline.PublishOptions{Once: p.once, Key: p.key}, events...)
			return receiptsOf(r), err
		}
	}
	return events(ctx, func(batch []pipeline.Event) error { return p.publish(ctx, batch) })
}

// prepare checks the arguments, so that nothing is begun with wrong ones.
func (p *publishVerb) prepare(args []string) error {
	p.event.Type = args[0]
	if err := pipeline.CheckType(p.event.Type); err != nil {
		return usagef("type %q %w", p.event.Type, err)
	}
	if p.count < 1 {
		return usagef("--count %d: want 1 or more", p.count)
	}
	if p.count > 1 && len(args) == 2 && args[1] == "-" {
		return usagef("--count %d: with - there is an event for each line of stdin", p.count)
	}
	if p.count > 1 && p.event.ID != "" {
		return usagef("--id and --count exclude each other: each event has its own ID")
	}
	if several := len(args) == 2 && args[1] == "-" || p.count > 1; several && p.key != "" {
		return usagef("--key names one event: it excludes --count and -")
	}
	if len(p.key) > maxKey || !printable(p.key) {
		return usagef("--key %q: want 1 to 255 printable ASCII characters", p.key)
	}
	if p.server != "" && !p.once {
		return usagef("--once=false needs --redis: a server publishes an event of your own ID once in any case")
	}
	if len(args) == 2 && args[1] != "-" {
		p.event.Data = []byte(args[1])
		if err := p.checkPayload(p.event.Data); err != nil {
			return usagef("payload: %w", err)
		}
	} else if len(args) == 2 && p.event.ID != "" {
		return usagef("--id and - exclude each other: each event has its own ID")
	}
	p.event.Header = map[string]string{}
	for _, h := range p.headers {
		name, value, ok := strings.Cut(h, "=")
		if !ok {
			return usagef("--header %q: want NAME=VALUE", h)
		}
		if err := pipeline.CheckHeader(name); err != nil {
			return usagef("--header %q: %w", name, err)
		}
		p.event.Header[name] = value
	}
	if p.event.CorrelationID != "" && !pipeline.ValidCorrelationID(p.event.CorrelationID) {
		return usagef("correlation ID: want 1 to 128 visible ASCII characters")
	}
	// What other software has made of them must not keep the command from publishing: the library replaces them, too.
	if id := os.Getenv("MILLRACE_CORRELATION_ID"); p.event.CorrelationID == "" && pipeline.ValidCorrelationID(id) {
		p.event.CorrelationID = id
	}
	if id := os.Getenv("MILLRACE_EVENT_ID"); len(id) <= maxEventID && printable(id) && !strings.Contains(id, " ") {
		p.event.CausationID = id
	}
	if trace := os.Getenv("TRACEPARENT"); trace != "" && p.event.Header[pipeline.HeaderTraceParent] == "" {
		p.event.Header[pipeline.HeaderTraceParent] = trace
	}
	return nil
}

func (p *publishVerb) checkPayload(data []byte) error {
	if p.event.ContentType == pipeline.ContentTypeJSON && !json.Valid(data) {
		return errors.New("not JSON; quote it for the shell, or name its --content-type")
	}
	return nil
}

// counted yields as many events as --count says, and shows how far it is on a terminal.
func (p *publishVerb) counted(ctx context.Context, yield func([]pipeline.Event) error) error {
	progress := newProgress(os.Stderr, p.count)
	defer progress.end()
	for done := 0; done < p.count; {
		batch := make([]pipeline.Event, min(publishBatch, p.count-done))
		for i := range batch {
			batch[i] = p.event
		}
		if err := yield(batch); err != nil {
			return err
		}
		done += len(batch)
		progress.at(done)
	}
	return nil
}

// lines yields an event per line, as many at once as have come: a line that comes alone does not wait for others.
func (p *publishVerb) lines(ctx context.Context, in io.Reader, yield func([]pipeline.Event) error) error {
	lines := make(chan []byte, publishBatch)
	failed := make(chan error, 1)
	go func() {
		defer close(lines)
		scanner := bufio.NewScanner(in)
		scanner.Buffer(nil, 2<<20)
		for scanner.Scan() {
			select {
			case lines <- []byte(scanner.Text()):
			case <-ctx.Done():
				return
			}
		}
		failed <- scanner.Err()
	}()
	for n := 0; ; {
		batch, open := p.batchOf(ctx, lines)
		for i := range batch {
			n++
			if err := p.checkPayload(batch[i].Data); err != nil {
				return errors.Join(fmt.Errorf("line %d: %w", n, err), yieldSome(batch[:i], yield))
			}
		}
		if err := yieldSome(batch, yield); err != nil {
			return err
		}
		if !open {
			select {
			case err := <-failed:
				return err
			default:
				return context.Cause(ctx)
			}
		}
	}
}

func yieldSome(batch []pipeline.Event, yield func([]pipeline.Event) error) error {
	if len(batch) == 0 {
		return nil
	}
	return yield(batch)
}

// batchOf waits for a line and takes those that have come as well; false at the end.
func (p *publishVerb) batchOf(ctx context.Context, lines <-chan []byte) (batch []pipeline.Event, open bool) {
	add := func(line []byte) {
		if len(line) > 0 {
			e := p.event
			e.Data = line
			batch = append(batch, e)
		}
	}
	select {
	case line, ok := <-lines:
		if !ok {
			return nil, false
		}
		add(line)
	case <-ctx.Done():
		return nil, false
	}
	for len(batch) < publishBatch {
		select {
		case line, ok := <-lines:
			if !ok {
				return batch, false
			}
			add(line)
		default:
			return batch, true
		}
	}
	return batch, true
}

// publish sends a batch and prints its receipts; those of events that failed are not printed.
func (p *publishVerb) publish(ctx context.Context, batch []pipeline.Event) error {
	receipts, err := p.send(ctx, batch)
	for _, r := range receipts {
		if !r.kept() {
			continue
		}
		if printErr := p.print(r); printErr != nil {
			return printErr
		}
	}
	var invalid *pipeline.ValidationError
	if errors.As(err, &invalid) && !errors.Is(err, pipeline.ErrTooLarge) || errors.Is(err, pipeline.ErrConflict) {
		return &usageError{err}
	}
	return err
}

// receipt is what is printed for one event.
type receipt struct {
	ID         string  `json:"id"`
	Type       string  `json:"type"`
	Stream     string  `json:"stream"`
	Position   *string `json:"position"`
	Durability string  `json:"durability"`
	Duplicate  bool    `json:"duplicate"` // it was published before, and this is where
}

// kept reports whether the event is somewhere.
func (r receipt) kept() bool {
	return r.Durability != "" && r.Durability != pipeline.Refused.String() && r.Durability != pipeline.Unknown.String()
}

func receiptsOf(r pipeline.Receipt) []receipt {
	receipts := make([]receipt, len(r.Outcomes))
	for i, o := range r.Outcomes {
		receipts[i] = receipt{ID: o.ID, Type: o.Type, Stream: pipeline.StreamOf(o.Type), Durability: o.Durability.String(), Duplicate: o.Duplicate}
		if o.Position != "" {
			position := string(o.Position)
			receipts[i].Position = &position
		}
	}
	return receipts
}

func (p *publishVerb) print(r receipt) error {
	if p.json {
		return json.NewEncoder(p.out).Encode(r)
	}
	position := "-"
	if r.Position != nil {
		position = *r.Position
	}
	duplicate := ""
	if r.Duplicate {
		duplicate = "  duplicate"
	}
	_, err := fmt.Fprintf(p.out, "%s  %s  %s  %s  %s%s\n", r.Durability, r.Type, r.ID, r.Stream, position, duplicate)
	return err
}

// printable reports whether a text is of printable ASCII characters.
func printable(text string) bool {
	return strings.IndexFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) < 0
}
