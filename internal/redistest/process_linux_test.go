package redistest

import "testing"

func TestServerDiesWithItsTestBinary(t *testing.T) {
	t.Parallel()
	c := runChild(t, "die")
	if c.exitCode != 7 {
		t.Fatalf("exit %d, want 7; it said:\n%s", c.exitCode, c.stderr)
	}
	if !eventually(t, func() bool { return dial(c.server) != nil }) {
		t.Errorf("the server at %s outlived its test binary", c.server)
	}
}
