package redisstream

import (
	"fmt"
	"testing"
	"time"

	"github.com/rishi-platform/millrace/internal/redistest"
)

func TestP15ClaimsAreRememberedForTheirTime(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c := connect(t, server, "acme")
	claim := func(key, what string, window time.Duration) string {
		t.Helper()
		used, err := c.Claim(t.Context(), key, what, window)
		if err != nil {
			t.Fatal(err)
		}
		return used
	}
	for i, want := range []string{"first", "first", "first"} {
		if used := claim("k", []string{"first", "second", "first"}[i], time.Hour); used != want {
			t.Errorf("call %d: used for %q, want %q", i, used, want)
		}
	}
	if used := claim("over", "first", -time.Millisecond); used != "first" {
		t.Errorf("used for %q", used)
	}
	if used := claim("over", "second", time.Hour); used != "second" {
		t.Errorf("used for %q after its time", used)
	}
}

// However many keys there are, a hash keeps its bound, and what is over goes first.
func TestP15ClaimsKeepTheirBound(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := server.Client(t)
	run := func(key string, window time.Duration) {
		t.Helper()
		if err := claimScript.Run(t.Context(), client, []string{"keys"}, key, "what", window.Milliseconds(), 100).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 300 {
		run(fmt.Sprint("key-", i), time.Hour+time.Duration(i)*time.Second)
	}
	if n := client.HLen(t.Context(), "keys").Val(); n != 100 {
		t.Errorf("%d keys, want 100", n)
	}
	recent := 0
	for i := 150; i < 300; i++ {
		if client.HExists(t.Context(), "keys", fmt.Sprint("key-", i)).Val() {
			recent++
		}
	}
	if recent < 80 {
		t.Errorf("only %d of 100 keys are of the last 150: the old ones do not go first", recent)
	}
	client.Del(t.Context(), "keys")
	for i := range 300 {
		run(fmt.Sprint("brief-", i), -time.Millisecond)
	}
	if n := client.HLen(t.Context(), "keys").Val(); n > 8 {
		t.Errorf("%d keys are over and still there", n)
	}
}
