package redisstream

import (
	"errors"
	"testing"
	"time"

	"github.com/rishi-platform/millrace/internal/redistest"
)

func TestCPUGrowsWithWork(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c := connect(t, server, "")
	before, err := c.CPU(t.Context(), "booking")
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Client(t).Eval(t.Context(), "for i = 1, 3000000 do end", nil).Err(); err != nil && err.Error() != "redis: nil" {
		t.Fatal(err)
	}
	after, err := c.CPU(t.Context(), "booking")
	if err != nil {
		t.Fatal(err)
	}
	if after.Total <= before.Total || after.Main <= before.Main || after.Main > after.Total {
		t.Errorf("before %+v, after %+v; want more of both, and the main thread's within the total", before, after)
	}
}

func TestCPUOfServersThatSayLess(t *testing.T) {
	t.Parallel()
	old := "# CPU\r\nused_cpu_sys:1.250000\r\nused_cpu_user:2.500000\r\nused_cpu_sys_children:9.0\r\n"
	if got, err := parseCPU(old); err != nil || got != (CPU{Total: 3750 * time.Millisecond, Main: 3750 * time.Millisecond}) {
		t.Errorf("got %+v, %v; want 3.75 s for both", got, err)
	}
	if got, err := parseCPU("# CPU\r\n"); !errors.Is(err, errReply) {
		t.Errorf("got %+v, %v; want an error", got, err)
	}
}
