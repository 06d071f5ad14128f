package main

import (
	"bytes"
	"fmt"
	"io"
)

// progressMark begins a line on stderr with which a child that takes long says how far it is.
const progressMark = "progress: "

// progress says how far a child is.
func progress(w io.Writer, format string, args ...any) {
	fmt.Fprintf(w, progressMark+format+"\n", args...)
}

// listener keeps what a child says on stderr, and passes its progress on at once.
type listener struct {
	log   func(format string, args ...any)
	said  bytes.Buffer
	heard int // bytes of said that have been looked at
}

func (l *listener) Write(p []byte) (int, error) {
	n, err := l.said.Write(p)
	for {
		line, _, whole := bytes.Cut(l.said.Bytes()[l.heard:], []byte("\n"))
		if !whole {
			return n, err
		}
		l.heard += len(line) + 1
		if text, found := bytes.CutPrefix(line, []byte(progressMark)); found {
			l.log("    %s", text)
		}
	}
}
