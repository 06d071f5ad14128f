package handlers

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/rishi-platform/millrace/internal/terminal"
	"github.com/rishi-platform/millrace/pipeline"
	"github.com/rishi-platform/millrace/router"
)

// Log returns a handler that writes one line per event to the logger, at level info and without the payload.
func Log(l *slog.Logger) router.Handler {
	return func(ctx context.Context, d *pipeline.Delivery) error {
		l.LogAttrs(ctx, slog.LevelInfo, "event",
			slog.String("group", d.Group), slog.String("type", d.Event.Type), slog.String("id", d.Event.ID),
			slog.String("subject", d.Event.Subject), slog.String("position", string(d.Position)),
			slog.Int("attempt", d.Attempt), slog.String("correlation_id", d.Event.CorrelationID))
		return nil
	}
}

// Line makes one line, with its line feed, of an event and its place: TextLine or JSONLine.
type Line func(r pipeline.Record) ([]byte, error)

// Print returns a handler that writes one line per event, whole and one at a time. What could not be written is a failure.
func Print(w io.Writer, line Line) router.Handler {
	var mu sync.Mutex
	return func(_ context.Context, d *pipeline.Delivery) error {
		b, err := line(pipeline.Record{Event: d.Event, Stream: d.Stream, Position: d.Position})
		if err != nil {
			return fmt.Errorf("print event: %w", err)
		}
		mu.Lock()
		defer mu.Unlock()
		if _, err := w.Write(b); err != nil {
			return fmt.Errorf("print event: %w", err)
		}
		return nil
	}
}

// TextLine is for people: time, type, subject, ID and position, apart by two spaces. What is missing is a hyphen.
func TextLine(r pipeline.Record) ([]byte, error) {
	fields := []string{
		r.Time.UTC().Format("2006-01-02T15:04:05.000Z"), printable(r.Type), printable(r.Subject), printable(r.ID), string(r.Position),
	}
	return []byte(strings.Join(fields, "  ") + "\n"), nil
}

// TextDataLine is TextLine and, where the event has any, a second line with its data: JSON without white space, other text, or what it is. What would
// speak to the terminal is escaped, and the line is cut to so many columns; 0: it is not.
func TextDataLine(columns int) Line {
	return func(r pipeline.Record) ([]byte, error) {
		line, err := TextLine(r)
		if err != nil || len(r.Data) == 0 {
			return line, err
		}
		line = append(line, dataIndent...)
		line = append(line, terminal.Cut(dataText(&r.Event), max(0, columns-len(dataIndent)))...)
		return append(line, '\n'), nil
	}
}

// dataIndent stands before data, so that no line of it looks like one of an event.
const dataIndent = "    "

func dataText(e *pipeline.Event) string {
	var compact bytes.Buffer
	switch {
	case !utf8.Valid(e.Data):
		return fmt.Sprintf("(%d bytes of %s)", len(e.Data), terminal.Escape(e.ContentType))
	case json.Compact(&compact, e.Data) == nil:
		return terminal.Escape(compact.String())
	}
	return terminal.Escape(string(e.Data))
}

// JSONLine is the CloudEvent with the members stream and position.
func JSONLine(r pipeline.Record) ([]byte, error) {
	b, err := json.Marshal(r)
	return append(b, '\n'), err
}

// printable quotes what would break the line or speak to the terminal instead of the reader.
func printable(s string) string {
	if s == "" {
		return "-"
	}
	for _, c := range s {
		if c == ' ' || !strconv.IsPrint(c) {
			return strconv.Quote(s)
		}
	}
	return s
}
