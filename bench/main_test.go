package main

import (
	"errors"
	"os/exec"
	"testing"
)

func TestRoundsByDefault(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args []string
		want int
	}{
		{nil, 5},
		{[]string{"--quick"}, 1},
		{[]string{"--against", "HEAD"}, 10},
		{[]string{"--rounds", "3", "--quick"}, 3},
	} {
		if o, err := parse(test.args); err != nil || o.rounds != test.want {
			t.Errorf("%v: got %d rounds, %v, want %d", test.args, o.rounds, err, test.want)
		}
	}
	for _, args := range [][]string{{"--rounds", "-1"}, {"--only", "("}, {"quick"}, {"--against", "HEAD", "--json"},
		{"--instances", "0"}, {"--instances", "3,3"}, {"--instances", ""}, {"--instances", "3;10"}, {"--settle", "-1s"}, {"--window", "-1s"}} {
		if _, err := parse(args); err == nil {
			t.Errorf("%v: got nil, want an error", args)
		}
	}
}

func TestServerThatTheVariableNames(t *testing.T) {
	t.Parallel()
	absent := func(string) (string, error) { return "", exec.ErrNotFound }
	onPath := func(name string) (string, error) { return "/bin/" + name, nil }
	named := func(string) string { return "redis-8" }
	unset := func(string) string { return "" }
	if got, err := findRedis(named, onPath); err != nil || got != "/bin/redis-8" {
		t.Errorf("got %q, %v, want the one that is named", got, err)
	}
	if got, err := findRedis(unset, onPath); err != nil || got != "/bin/redis-server" {
		t.Errorf("got %q, %v, want redis-server", got, err)
	}
	if _, err := findRedis(named, absent); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("got %v, want that the named one is not there", err)
	}
	if _, err := findRedis(unset, absent); err == nil {
		t.Error("without any: got nil, want an error")
	}
}
