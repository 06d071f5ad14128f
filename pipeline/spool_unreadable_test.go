package pipeline

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rishi-platform/millrace/internal/redistest"
)

// A slot that the disk can't read keeps no process from starting, and health names it.
func TestP03DiskThatCanNotBeRead(t *testing.T) {
	t.Parallel()
	cfg := away(t)
	cfg.SpoolDir = t.TempDir()
	slot := spooledBy(t, cfg, "e")
	segments, err := filepath.Glob(filepath.Join(slot, "*.log"))
	if err != nil || len(segments) != 1 {
		t.Fatal(segments, err)
	}
	owner, err := os.ReadFile(filepath.Join(slot, "owner"))
	if err != nil {
		t.Fatal(err)
	}
	redis := redistest.Shared(t).Options()
	if err := os.WriteFile(filepath.Join(slot, "owner"), []byte(strings.Replace(string(owner), cfg.Redis.Addrs[0], redis.Addrs[0], 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(segments[0]); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(segments[0], 0o700); err != nil { // it can be opened, and each read fails
		t.Fatal(err)
	}
	cfg.Redis = redis
	b := openBus(t, cfg)
	if b.spool.log.Dir() == slot {
		t.Errorf("it has %s", slot)
	}
	awaitFact(t, "the problem", func() bool {
		text := problemText(b.Health(t.Context()), "spool-stuck")
		return strings.Contains(text, slot) && strings.Contains(text, "is a directory")
	})
}
