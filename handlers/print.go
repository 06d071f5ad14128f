package handlers

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"

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
		r.Time.UTC().Format("2006-01-02T15:04:05.000Z"), r.Type, printable(r.Subject), printable(r.ID), string(r.Position),
	}
	return []byte(strings.Join(fields, "  ") + "\n"), nil
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
