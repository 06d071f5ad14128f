package handlers

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rishi-platform/millrace/pipeline"
)

func TestTextLine(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*pipeline.Delivery)
		want   string
	}{
		"all fields": {
			func(*pipeline.Delivery) {},
			"2026-01-02T03:04:05.678Z  invoice.issued  invoice/7  e-1  1764000000000-3\n",
		},
		"no subject": {
			func(d *pipeline.Delivery) { d.Event.Subject = "" },
			"2026-01-02T03:04:05.678Z  invoice.issued  -  e-1  1764000000000-3\n",
		},
		"a subject that would break the line": {
			func(d *pipeline.Delivery) { d.Event.Subject = "a b\n\x1b[2J" },
			`2026-01-02T03:04:05.678Z  invoice.issued  "a b\n\x1b[2J"  e-1  1764000000000-3` + "\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := delivery(`{}`)
			test.change(d)
			var out bytes.Buffer
			if err := Print(&out, TextLine)(t.Context(), d); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, out.String()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// The data of an event stands on one line below it, and speaks to nobody's terminal.
func TestP25DataStandsBelow(t *testing.T) {
	t.Parallel()
	const line = "2026-01-02T03:04:05.678Z  invoice.issued  invoice/7  e-1  1764000000000-3\n"
	for name, test := range map[string]struct {
		data, contentType string
		columns           int
		want              string
	}{
		"JSON":               {"{ \"total\" : 12,\n \"paid\": false }", "", 0, "    {\"total\":12,\"paid\":false}\n"},
		"cut":                {`{"total":12,"paid":false}`, "", 20, "    {\"total\":12,\"pa…\n"},
		"wide letters":       {`"日本日本日本日本日本"`, "", 20, "    \"日本日本日本日…\n"},
		"a terminal of none": {`{"total":12,"paid":false}`, "", 2, "    {\"total\":12,\"paid\":false}\n"},
		"text":               {"two\nlines\a", "text/plain", 0, "    two\\nlines\\a\n"},
		"JSON that turns":    {"\"\u202e\x7f\"", "", 0, "    \"\\u202e\\x7f\"\n"},
		"bytes":              {"\xff\xfe", "image/\x1bpng", 0, "    (2 bytes of image/\\x1bpng)\n"},
		"none":               {"", "", 0, ""},
	} {
		d := delivery(test.data)
		d.Event.ContentType = test.contentType
		var out bytes.Buffer
		if err := Print(&out, TextDataLine(test.columns))(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(line+test.want, out.String()); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
	d := delivery("")
	d.Event.Type = "evil\x1b[2J"
	if text, err := TextLine(pipeline.Record{Event: d.Event}); err != nil || bytes.ContainsRune(text, 0x1b) {
		t.Errorf("%q, %v", text, err)
	}
}

func TestPrintJSONLinesStayWhole(t *testing.T) {
	t.Parallel()
	const events = 50
	var out bytes.Buffer
	handle := Print(&out, JSONLine)
	var wg sync.WaitGroup
	for range events {
		wg.Go(func() {
			if err := handle(t.Context(), delivery(`{"total":12}`)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()

	lines := strings.SplitAfter(out.String(), "\n")
	if got := len(lines) - 1; got != events {
		t.Fatalf("got %d lines, want %d", got, events)
	}
	for _, line := range lines[:events] {
		var got struct {
			ID, Type, Stream, Position string
			Data                       struct{ Total int }
		}
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		if got.ID != "e-1" || got.Type != "invoice.issued" || got.Stream != "invoice" || got.Position != "1764000000000-3" || got.Data.Total != 12 {
			t.Fatalf("got %+v from %s", got, line)
		}
	}
}

func TestPrintFailsWhenNothingWasWritten(t *testing.T) {
	t.Parallel()
	r, w := io.Pipe()
	r.CloseWithError(errors.New("nobody reads"))
	if err := Print(w, TextLine)(t.Context(), delivery(`{}`)); err == nil {
		t.Error("got nil for an event that was not printed, want an error")
	}
}

func TestLogNamesTheEventAndKeepsItsPayloadBack(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := Log(slog.New(slog.NewJSONHandler(&out, nil)))(t.Context(), delivery(`"secret"`)); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	delete(got, "time")
	want := map[string]any{
		"level": "INFO", "msg": "event", "group": "mail", "type": "invoice.issued", "id": "e-1", "subject": "invoice/7",
		"position": "1764000000000-3", "attempt": 2.0, "correlation_id": "abc-1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
