package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestRevisionGetsTheBenchmarkThatItLacks(t *testing.T) {
	t.Parallel()
	const idleFile = "bench/idle.go"
	from, to := t.TempDir(), t.TempDir()
	tree := func(dir string, files ...string) {
		t.Helper()
		for _, f := range files {
			writeFile(t, filepath.Join(dir, f))
		}
	}
	tree(from, idleFile, "internal/loadgen/new.go")
	tree(to, "bench/old.go")
	if err := bringBench(from, to, false); err != nil {
		t.Fatal(err)
	}
	if !exists(to, "bench/old.go") || exists(to, idleFile) || !exists(to, "internal/loadgen/new.go") {
		t.Error("want its own benchmark kept, and the load generator that is missing")
	}
	if err := bringBench(from, to, true); err != nil {
		t.Fatal(err)
	}
	if exists(to, "bench/old.go") || !exists(to, idleFile) {
		t.Error("want its benchmark replaced")
	}
	for kind, file := range fileOf {
		if !exists(".", file) {
			t.Errorf("%s, by which a revision is known that has the %s cases, does not exist in this one", file, kind)
		}
	}
}

func writeFile(t *testing.T, name string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

func exists(dir, name string) bool {
	_, err := os.Stat(filepath.Join(dir, name))
	return err == nil
}
