package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestG09CommandThatCannotBeRunIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	script, plain := filepath.Join(dir, "script"), filepath.Join(dir, "plain")
	for path, mode := range map[string]os.FileMode{script: 0o755, plain: 0o644} {
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	for command, want := range map[string]string{ // part of the refusal; empty: none
		script:                            "",
		script + " with arguments":        "",
		"\n  " + script + "\t>/dev/null":  "",
		dir + "/missing.sh":               "no such file",
		dir + "/missing.sh 'with' $more":  "no such file",
		"./missing.sh":                    "no such file",
		plain + "/missing.sh":             "no such file",
		plain:                             "chmod +x",
		dir:                               "can't be executed",
		"millrace-has-no-such-command -v": "finds no such command",
		"sh -c true":                      "",
		"cd /tmp && ./missing.sh":         "", // commands of the shell
		"exit 100":                        "",
		"if true; then missing; fi":       "",
		". ./missing.sh":                  "",
		"A=1 missing":                     "", // what only the shell understands
		"$CMD":                            "",
		"'missing'":                       "",
		"missing;true":                    "",
		"(missing)":                       "",
		"{ true; }":                       "",
		"missing_is_no_function_yet(){ true; }; missing_is_no_function_yet": "",
	} {
		err := checkCommand(t.Context(), command)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", command, err, want)
		}
	}
}
