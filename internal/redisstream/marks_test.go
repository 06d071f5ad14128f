package redisstream

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rishi-platform/millrace/internal/redistest"
)

// A process that publishes a little and ends leaves a mark for 10 minutes, any other one for 30 days. The next new writer pays for those that
// are over, whatever it appends.
func TestP13OldMarksGoWithEachKindOfAppend(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := server.Client(t)
	ago := func(d time.Duration) string { return fmt.Sprintf("1 %d-0", time.Now().Add(-d).UnixMilli()) }
	for kind, appended := range appendsOf {
		c := connect(t, server, kind)
		key := c.writersKey("booking")
		stay := map[string]string{"~brief": ago(8 * time.Minute), "long": ago(29 * 24 * time.Hour)}
		client.HSet(t.Context(), key, stay)
		client.HSet(t.Context(), key, "~over", ago(11*time.Minute), "over", ago(31*24*time.Hour), "refused", "0 0-0")
		if err := appended(t.Context(), c, 1, messagesOf(1, 10)); err != nil {
			t.Fatal(err)
		}
		marks := client.HGetAll(t.Context(), key).Val()
		if len(marks) != len(stay)+1 || marks["~brief"] == "" || marks["long"] == "" {
			t.Errorf("%s: %v are left", kind, marks)
		}
	}
}

// A thousand commands that ran ten times a second leave what those of the last 10 minutes need.
func TestP13MarksOfCommandsDoNotPileUp(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := server.Client(t)
	c := connect(t, server, "")
	key := c.writersKey("booking")
	most := int64(0)
	for i := range 1000 {
		name := fmt.Sprint("~command-", i)
		if _, _, err := c.Append(t.Context(), "booking", Writer{Name: name, Seq: 1}, messagesOf(1, 10)); err != nil {
			t.Fatal(err)
		}
		most = max(most, client.HLen(t.Context(), key).Val())
		client.HSet(t.Context(), key, name, fmt.Sprintf("1 %d-0", time.Now().Add(-time.Hour).UnixMilli())) // an hour goes by
	}
	if most > 64 {
		t.Errorf("up to %d marks, all of them over but one", most)
	}
	if writers := client.HKeys(t.Context(), key).Val(); len(writers) == 0 || !strings.HasPrefix(writers[0], "~") {
		t.Errorf("%v are left: this test proves nothing", writers)
	}
}
