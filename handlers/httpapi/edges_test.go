package httpapi_test

import (
	"net/http"
	"strings"
	"testing"
)

// What is refused says what of it is wrong.
func TestP24RefusalsNameTheCause(t *testing.T) {
	t.Parallel()
	h, _ := inMemory(t)
	const attributes = `{"specversion":"1.0","id":"1","source":"s","type":"booking.created"}`
	for name, test := range map[string]struct {
		answer answer
		status int
		want   string
	}{
		"a percent sign": {
			post(t, h, `{}`, "Content-Type: application/json", "Ce-Specversion: 1.0", "Ce-Id: 1", "Ce-Source: s", "Ce-Type: booking.created", "Ce-Subject: 100%"), 422, "%25",
		},
		"a byte order mark":               {post(t, h, "\xef\xbb\xbf"+attributes, isCloudEvent), 400, "byte order mark"},
		"a byte order mark before data":   {post(t, h, "\xef\xbb\xbf{}", "Content-Type: application/json", "Ce-Specversion: 1.0", "Ce-Id: 1", "Ce-Source: s", "Ce-Type: booking.created"), 400, "byte order mark"},
		"an empty batch":                  {post(t, h, `[]`, isBatch), 422, "has no events"},
		"an unknown field":                {post(t, h, `{"type":"booking.created","playload":1}`, isJSON), 422, "unknown field playload"},
		"an unknown field of the options": {post(t, h, `{"type":"booking.created","options":{"local":true}}`, isJSON), 422, "unknown field local"},
		"an unknown parameter":            {get(t, h, historyPath+"?type=booking.created"), 422, "unknown parameter type"},
	} {
		if test.answer.status != test.status || !strings.Contains(test.answer.body, test.want) {
			t.Errorf("%s: %d %s", name, test.answer.status, test.answer.body)
		}
	}
	if a := post(t, h, attributes, isCloudEvent, "Ce-Subject: 100%25"); a.status != http.StatusAccepted {
		t.Errorf("%d %s", a.status, a.body)
	}
}
