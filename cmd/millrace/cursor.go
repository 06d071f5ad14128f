package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/rishi-platform/millrace/pipeline"
)

// keepEvery is how often a cursor is written to its file.
const keepEvery = time.Second

// keptCursor keeps in a file how far a subscription has got; without a file it does nothing.
type keptCursor struct {
	file string

	mu      sync.Mutex      // guards what follows
	last    pipeline.Cursor // that is not written yet
	written pipeline.Cursor
	failed  bool // an event was not dealt with: the cursor may not pass it
}

// readCursor returns what a file keeps; empty where there is none yet. Another file takes its place each time that it is written: what is no file of its
// own, a device, a folder or a link, must not be replaced.
func readCursor(file string) (pipeline.Cursor, error) {
	if info, err := os.Lstat(file); err == nil && !info.Mode().IsRegular() {
		return "", usagef("--resume %s: it is %s, want a file that may be replaced", file, kindOf(info.Mode()))
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	cursor := pipeline.Cursor(strings.TrimSpace(string(text)))
	if err == nil && cursor == "" {
		err = fmt.Errorf("%s is empty: it holds no cursor; delete it to begin anew", file)
	}
	return cursor, err
}

func kindOf(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "a folder"
	case mode&fs.ModeSymlink != 0:
		return "a link"
	case mode&fs.ModeDevice != 0:
		return "a device"
	}
	return "no regular file"
}

// after deals with an event, and is behind it then. It is called by the function of the subscription, with its ctx.
func (k *keptCursor) after(ctx context.Context, deal func() error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	err := deal()
	if err != nil {
		k.failed = true
	} else if k.file != "" {
		k.last = pipeline.CurrentCursor(ctx)
	}
	return err
}

// keep writes the cursor once a second until ctx ends. Where no event came, current tells how far others were passed over.
func (k *keptCursor) keep(ctx context.Context, current func() (pipeline.Cursor, error)) error {
	if k.file == "" {
		return nil
	}
	ticker := time.NewTicker(keepEvery)
	defer ticker.Stop()
	for {
		k.mu.Lock()
		if k.last == "" && !k.failed {
			k.last, _ = current() // it fails when the subscription has ended
		}
		k.mu.Unlock()
		if err := k.write(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// write replaces the file, so that a crash leaves the old or the new cursor in it.
func (k *keptCursor) write() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.last == "" || k.last == k.written {
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(k.file), ".cursor-*")
	if err != nil {
		return fmt.Errorf("keep the cursor: %w", err)
	}
	_, err = f.WriteString(string(k.last) + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), k.file)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("keep the cursor: %w", err)
	}
	k.last, k.written = "", k.last
	return nil
}
