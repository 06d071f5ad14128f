package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// compare measures Millrace now and at another revision, in turns, and prints how much faster it is now.
func compare(ctx context.Context, o options, r *runner) error {
	all := slices.DeleteFunc(o.cases(), func(c Case) bool { return c.System != systemMillrace })
	if len(all) == 0 {
		return errors.New("--only matches no case of millrace")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	then, remove, err := buildRevision(ctx, o.against, r.dir, all)
	if err != nil {
		return err
	}
	defer remove()
	where, err := r.survey(ctx)
	if err != nil {
		return err
	}
	got, failed := r.run(ctx, []contender{{"now ", self, all}, {"then", then, all}}, o.rounds)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var report strings.Builder
	fmt.Fprintf(&report, "Now against %s, median of %d. %s\nAbove 1: of events/s faster now, of all else more now.\n\n", o.against, o.rounds, where)
	events, _ := split(all)
	if len(events) > 0 {
		printComparison(&report, events, got[0], got[1])
		report.WriteByte('\n')
	}
	printIdleComparison(&report, all, got[0], got[1])
	if _, err := os.Stdout.WriteString(report.String()); err != nil {
		return err
	}
	return failed
}

// printComparison prints the ratios of now to then.
func printComparison(w *strings.Builder, all []Case, now, then results) {
	lines := [][]string{{"case", "now/s", "then/s", "events/s", "p50 ms", "p99 ms", "server µs", "client µs", "allocs", "B/entry", "RSS MiB"}}
	for _, c := range all {
		speed := func(r results) string { return measure(median(r.values(c.Name, perSecond))).text(thousands) }
		line := []string{c.Name, speed(now), speed(then)}
		for _, key := range []string{perSecond, p50, p99, serverCPU, clientCPU, allocs, entryBytes, rss} {
			ratio := medianRatio(now[c.Name], then[c.Name], key)
			if c.Kind == kindLatency && key == perSecond {
				ratio = math.NaN() // the speed is given
			}
			line = append(line, measure(ratio).text(digits(2)))
		}
		lines = append(lines, line)
	}
	writeTable(w, "lr", lines)
}

// buildRevision builds the benchmark of a revision in a work tree of its own. A revision that has none gets this one, and its load
// generator if it has none of these either: what is measured is then the bus alone. So does one whose benchmark does not know
// one of the cases.
func buildRevision(ctx context.Context, revision, dir string, all []Case) (binary string, remove func(), err error) {
	top, err := output(ctx, ".", "git", "rev-parse", "--show-toplevel")
	if err != nil {
		return "", nil, err
	}
	tree := filepath.Join(dir, "then")
	if _, err := output(ctx, top, "git", "worktree", "add", "--detach", tree, revision); err != nil {
		return "", nil, err
	}
	remove = func() {
		// With a context of its own: it is for the end, also after Ctrl-C. Without it git only goes on to list a folder that is gone.
		_, _ = output(context.Background(), top, "git", "worktree", "remove", "--force", tree)
	}
	unknown := slices.ContainsFunc(all, func(c Case) bool {
		_, err := os.Stat(filepath.Join(tree, "bench", fileOf[c.Kind]))
		return err != nil
	})
	if err := bringBench(top, tree, unknown); err != nil {
		remove()
		return "", nil, err
	}
	binary = filepath.Join(dir, "bench-then")
	// -mod=mod: the sums of this revision's dependencies may not be the ones in the copied go.sum.
	if _, err := output(ctx, filepath.Join(tree, "bench"), "go", "build", "-mod=mod", "-o", binary, "."); err != nil {
		remove()
		return "", nil, err
	}
	return binary, remove, nil
}

// fileOf names the file that is there in a revision whose benchmark knows a kind that has not been there from the beginning.
var fileOf = map[string]string{kindIdle: "idle.go", kindDrain: "drain.go"}

// bringBench copies the benchmark and its load generator from one tree to another, where they are missing there or are to be replaced.
func bringBench(from, to string, replace bool) error {
	for _, folder := range []string{"bench", "internal/loadgen"} {
		there := filepath.Join(to, folder)
		if _, err := os.Stat(there); err == nil && !replace {
			continue
		}
		if err := os.RemoveAll(there); err != nil {
			return err
		}
		if err := os.CopyFS(there, os.DirFS(filepath.Join(from, folder))); err != nil {
			return err
		}
	}
	return nil
}

// output runs a command in a folder and returns what it printed, without the line's end.
func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(stdout.String()), nil
}
