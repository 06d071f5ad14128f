// Package terminal shows texts to people: in columns, on one line, and without what would speak to the terminal instead of the reader.
package terminal

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/mattn/go-runewidth"
	"golang.org/x/term"
)

// Width is how many columns the terminal has that w writes to; 0: it is none.
func Width(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return width
}

// Escape writes what is not printable (ESC, BEL, line feeds, bytes that are no UTF-8, marks that turn the direction of writing) as Go does.
func Escape(s string) string {
	var b strings.Builder
	for i, c := range s {
		switch {
		case c == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD"):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case strconv.IsPrint(c):
			b.WriteRune(c)
		default:
			quoted := strconv.QuoteRune(c)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
	}
	return b.String()
}

// JSON writes what is not printable in a JSON text as JSON does, but for line feeds. Encoders leave some of it as it is.
func JSON(text string) string {
	var b strings.Builder
	for _, c := range text {
		if c == '\n' || strconv.IsPrint(c) {
			b.WriteRune(c)
			continue
		}
		for _, unit := range utf16.Encode([]rune{c}) {
			fmt.Fprintf(&b, `\u%04x`, unit)
		}
	}
	return b.String()
}

// Cut shortens a text to so many columns; 0: it stays as it is.
func Cut(s string, width int) string {
	if width <= 0 {
		return s
	}
	return runewidth.Truncate(s, width, "…")
}

// Table is rows of cells, in columns.
type Table struct {
	// Less names columns that are left out, one after the other, where the terminal is too narrow. Default: none.
	Less []string

	out   io.Writer
	width int
	rows  [][]string
}

// NewTable returns a table whose columns have these names, in capitals; none where it has no heading.
func NewTable(out io.Writer, names ...string) *Table {
	t := &Table{out: out, width: Width(out)}
	if len(names) > 0 {
		t.rows = append(t.rows, names)
	}
	return t
}

// Row adds a row. Cells are escaped; an empty one is a hyphen.
func (t *Table) Row(cells ...any) {
	row := make([]string, len(cells))
	for i, cell := range cells {
		if row[i] = Escape(fmt.Sprint(cell)); row[i] == "" {
			row[i] = "-"
		}
	}
	t.rows = append(t.rows, row)
}

const (
	between   = 2  // columns between two cells
	leastLast = 16 // columns that are left to the last cell
)

// Flush writes the table. On a terminal that it is too wide for columns are left out (Less), then the last cells are cut, and where that
// does not do, the widest ones behind the first.
func (t *Table) Flush() error {
	for _, name := range t.Less {
		if t.over(t.widths()) <= 0 {
			break
		}
		t.leaveOut(name)
	}
	widths := t.fit(t.widths())
	var text strings.Builder
	for _, row := range t.rows {
		for i, cell := range row {
			if cell = Cut(cell, widths[i]); i < len(row)-1 {
				cell = runewidth.FillRight(cell, widths[i]+between)
			}
			text.WriteString(cell)
		}
		text.WriteByte('\n')
	}
	t.rows = nil
	_, err := io.WriteString(t.out, text.String())
	return err
}

// Lines is Escape for a text of several lines, which stay apart.
func Lines(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		indented := strings.TrimLeft(line, "\t")
		lines[i] = line[:len(line)-len(indented)] + Escape(indented)
	}
	return strings.Join(lines, "\n")
}

// leaveOut takes a column out.
func (t *Table) leaveOut(name string) {
	if at := slices.Index(t.rows[0], name); at >= 0 {
		for i, row := range t.rows {
			t.rows[i] = slices.Delete(slices.Clone(row), at, at+1)
		}
	}
}

// widths returns that of each column.
func (t *Table) widths() []int {
	var widths []int
	for _, row := range t.rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], runewidth.StringWidth(cell))
		}
	}
	return widths
}

// over is by how many columns the table is too wide, once its last cells are cut.
func (t *Table) over(widths []int) int {
	if t.width == 0 || len(widths) == 0 {
		return 0
	}
	over := between*(len(widths)-1) - t.width
	for _, w := range widths[:len(widths)-1] {
		over += w
	}
	return over + min(widths[len(widths)-1], leastLast)
}

// fit makes the columns narrower.
func (t *Table) fit(widths []int) []int {
	if t.width == 0 || len(widths) == 0 {
		return widths
	}
	over, last := t.over(widths), len(widths)-1
	widths[last] = min(widths[last], max(min(widths[last], leastLast), min(widths[last], leastLast)-over))
	for ; over > 0; over-- {
		widest := last
		for i, w := range widths {
			if i > 0 && w > widths[widest] {
				widest = i
			}
		}
		if widths[widest] <= leastLast/2 {
			break
		}
		widths[widest]--
	}
	return widths
}
