package main

import (
	"testing"
	"time"

	"github.com/spf13/pflag"
)

func TestP25FlagsHaveUnits(t *testing.T) {
	t.Parallel()
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	var wait time.Duration
	var size int64
	durationVar(f, &wait, "wait", time.Minute, "")
	bytesVar(f, &size, "size", 1<<30, "")
	if wait != time.Minute || f.Lookup("size").DefValue != "1GiB" {
		t.Errorf("defaults: %v, %s", wait, f.Lookup("size").DefValue)
	}
	if err := f.Parse([]string{"--wait", "1d", "--size", "512MiB"}); err != nil || wait != 24*time.Hour || size != 512<<20 {
		t.Errorf("%v, %d, %v", wait, size, err)
	}
	for _, args := range [][]string{{"--wait", "1"}, {"--size", "big"}} {
		if err := f.Parse(args); err == nil {
			t.Errorf("%v is taken", args)
		}
	}
	for size, want := range map[bytesValue]string{1 << 30: "1GiB", 3 << 20: "3MiB", 1000: "1000", 1<<30 + 1: "1073741825", 0: "0"} {
		if got := size.String(); got != want {
			t.Errorf("%d is %s, want %s", size, got, want)
		}
	}
}
