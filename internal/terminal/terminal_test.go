package terminal

import (
	"bytes"
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

func TestTableFits(t *testing.T) {
	t.Parallel()
	cells := [][]any{
		{"booking", 1, "short"},
		{strings.Repeat("a", 60), 12345, strings.Repeat("日本", 40)},
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
		if len(lines) != 4 || !strings.HasPrefix(lines[3], "-") || !strings.Contains(out.String(), `line\nfeed`) {
			t.Errorf("width %d:\n%s", width, out.String())
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
