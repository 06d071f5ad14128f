package main

import (
	"strings"
	"unicode/utf8"
)

// writeTable writes lines of cells in columns. align has a letter for each column, l or r; the last one stands for all that follow.
func writeTable(w *strings.Builder, align string, lines [][]string) {
	var widths []int
	for _, cells := range lines {
		for i, cell := range cells {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, cells := range lines {
		var line strings.Builder
		for i, cell := range cells {
			padding := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if align[min(i, len(align)-1)] == 'l' {
				line.WriteString(cell + padding)
			} else {
				line.WriteString(padding + cell)
			}
			line.WriteString("  ")
		}
		w.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
}
