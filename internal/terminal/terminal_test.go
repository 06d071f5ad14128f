package terminal

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/mattn/go-runewidth"
)

func TestEscape(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                       "",
		"plain text, ümlaut, 日本": "plain text, ümlaut, 日本",
		"\x1b[2J\a":              `\x1b[2J\a`,
		"two\nlines\r":           `two\nlines\r`,
		"not \xff UTF-8":         `not \xff UTF-8`,
		"\uFFFD is one":          "\uFFFD is one",
		"\u202eturned":           `\u202eturned`,
		`{"a":"\n"}`:             `{"a":"\n"}`,
	} {
		if got := Escape(text); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
}

func TestJSON(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"plain, ümlaut 日本", "\u009b2J", "\u202e\x7f", "\U000e0001", "line\nfeed"} {
		encoded, err := json.MarshalIndent(map[string]string{"a": text}, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		shown := JSON(string(encoded))
		var again map[string]string
		if err := json.Unmarshal([]byte(shown), &again); err != nil || again["a"] != text || strings.ContainsAny(shown, "\u009b\u202e\x7f\U000e0001") {
			t.Errorf("%q is %q, %v", text, shown, err)
		}
	}
}

// Columns that are named go first.
func TestTableLeavesColumnsOut(t *testing.T) {
	t.Parallel()
	for width, want := range map[int]string{
		0: "POSITION  ID            KIND   CAUSE\n1-0       aaaaaaaaaaaa  error  connection refused\n", 80: "", 40: "POSITION  KIND   CAUSE\n1-0       error  connection refused\n",
		28: "POSITION  CAUSE\n1-0       connection refused\n",
	} {
		var out bytes.Buffer
		table := NewTable(&out, "POSITION", "ID", "KIND", "CAUSE")
		table.width, table.Less = width, []string{"ID", "KIND"}
		table.Row("1-0", strings.Repeat("a", 12), "error", "connection refused")
		if err := table.Flush(); err != nil {
			t.Fatal(err)
		}
		if got := out.String(); want != "" && got != want {
			t.Errorf("width %d:\n%s", width, got)
		}
	}
}

func TestTableFits(t *testing.T) {
	t.Parallel()
	cells := [][]any{
		{"booking", 1, "short"},
		{"invoice", strings.Repeat("a", 60), strings.Repeat("日本", 40)},
		{"", 3, "line\nfeed"},
	}
	for _, width := range []int{0, 40, 80, 200, 10} {
		var out bytes.Buffer
		table := NewTable(&out, "STREAM", "N", "CAUSE")
		table.width = width
		for _, row := range cells {
			table.Row(row...)
		}
		if err := table.Flush(); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		if len(lines) != 4 || !strings.HasPrefix(lines[3], "-") || !strings.Contains(out.String(), `line\n`) {
			t.Errorf("width %d:\n%s", width, out.String())
		}
		if !strings.Contains(out.String(), "invoice ") {
			t.Errorf("width %d: the first column is cut", width)
		}
		for _, line := range lines {
			if n := runewidth.StringWidth(line); width >= 40 && n > width || strings.HasSuffix(line, " ") {
				t.Errorf("a line of %d columns on a terminal of %d: %q", n, width, line)
			}
		}
		if width == 0 && !strings.Contains(out.String(), cells[1][2].(string)) {
			t.Error("it is cut without a terminal")
		}
	}
}
