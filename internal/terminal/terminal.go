// Package terminal shows texts to people: in columns, on one line, and without what would speak to the terminal instead of the reader.
package terminal

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
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

// Cut shortens a text to so many columns; 0: it stays as it is.
func Cut(s string, width int) string {
	if width <= 0 {
		return s
	}
	return runewidth.Truncate(s, width, "…")
}

// Table is rows of cells, in columns.
type Table struct {
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

// Flush writes the table. On a terminal that it is too wide for the last cells are cut, and where that does not do, the widest ones before them.
func (t *Table) Flush() error {
	widths := t.widths()
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
	if t.width == 0 || len(widths) == 0 {
		return widths
	}
	over := between*(len(widths)-1) - t.width
	for _, w := range widths {
		over += w
	}
	last := len(widths) - 1
	cut := max(0, min(over, widths[last]-leastLast))
	widths[last] -= cut
	for over -= cut; over > 0; over-- {
		widest := 0
		for i, w := range widths[:last] {
			if w > widths[widest] {
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
