package handlers

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"unicode/utf8"

	"github.com/rishi-platform/millrace/pipeline"
	"github.com/rishi-platform/millrace/router"
)

func TestG10WebhookShowsTheBeginningOfTheAnswer(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ body, want string }{
		"nothing":        {"", ""},
		"blanks":         {" \r\n\t ", ""},
		"text":           {" no such\nroom\r\n", "no such room"},
		"JSON":           {`{"error":"it's full"}`, `{"error":"it's full"}`},
		"a terminal's":   {"\x1b[31mred\x00\u202e\u2028!", "[31mred   !"},
		"no UTF-8":       {"a\xff\xfeb", "a\uFFFDb"},
		"500 bytes":      {strings.Repeat("x", 501), strings.Repeat("x", 500)},
		"whole letters":  {strings.Repeat("x", 499) + "ü", strings.Repeat("x", 499)},
		"much":           {strings.Repeat("ä", 100_000), strings.Repeat("ä", 250)},
		"the query":      {"Not Found: /in?token=s3cr%2Fet&v=1", "Not Found: /in?…"},
		"a secret":       {`{"token":"s3cr/et","v":1}`, `{"token":"…","v":1}`},
		"one in JSON":    {`{"token":"s3cr\/et"}`, `{"token":"…"}`},
		"the password":   {"bad: pass/word", "bad: …"},
		"Basic":          {"Authorization: Basic dXNlcjpwYXNzL3dvcmQ=", "Authorization: Basic …"},
		"one at the end": {strings.Repeat("x", 497) + "s3cr/et", strings.Repeat("x", 497) + "…"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u, err := url.Parse("https://user:pass%2Fword@host/in?token=s3cr%2Fet&v=1")
			if err != nil {
				t.Fatal(err)
			}
			got := shown([]byte(test.body), secretsOf(u))
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if !utf8.ValidString(got) || len(got) > 500 {
				t.Errorf("got %d bytes, want valid UTF-8 of at most 500", len(got))
			}
		})
	}
}

// The answer stands in the cause of the dead letter, and those that differ in it only have one
// fingerprint: an answer may hold the ID of the request.
func TestG10WebhookAnswerStandsInTheDeadLetter(t *testing.T) {
	t.Parallel()
	var n atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusUnprocessableEntity)
		texts := []string{
			"request alpha: can't `parse` \"date\"", `{"request":"beta","path":"` + r.URL.String() + `"}`, "",
		}
		_, _ = w.Write([]byte(texts[n.Add(1)-1]))
	}))
	t.Cleanup(server.Close)
	bus, err := pipeline.Open(t.Context(), pipeline.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = bus.Close(context.Background()) })
	handle, err := Webhook(server.URL+"/in?token=secret", WebhookConfig{Transport: server.Client().Transport})
	if err != nil {
		t.Fatal(err)
	}
	r := router.New(bus, router.Config{})
	r.Group("mail", router.Policy{InFlight: 1}).Handle("invoice.*", handle)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- r.Run(ctx) }()
	for range 3 {
		if _, err := bus.Publish(t.Context(), pipeline.Event{Type: "invoice.issued"}); err != nil {
			t.Fatal(err)
		}
	}
	var dead []pipeline.DeadLetter
	for len(dead) < 3 {
		if t.Context().Err() != nil {
			t.Fatalf("got %d dead letters, want 3", len(dead))
		}
		dead = nil
		for d, err := range bus.DeadLetters(t.Context(), pipeline.DeadQuery{Stream: "invoice", Group: "mail"}) {
			if err != nil {
				t.Fatal(err)
			}
			dead = append(dead, d)
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	want := []string{
		": status 422 Unprocessable Entity: `request alpha: can't 'parse' \"date\"`",
		": status 422 Unprocessable Entity: `{\"request\":\"beta\",\"path\":\"/in?…\"}`",
		": status 422 Unprocessable Entity",
	}
	for i, d := range dead {
		if cause := "post " + server.URL + "/in" + want[i]; d.Cause != cause {
			t.Errorf("cause %d: got %q, want %q", i, d.Cause, cause)
		}
	}
	if a, b, none := dead[0].Fingerprint, dead[1].Fingerprint, dead[2].Fingerprint; a != b || a == none {
		t.Errorf("fingerprints %s, %s, %s, want the first two to be the same", a, b, none)
	}
}

func TestG19RetryAfterOfTheWebhook(t *testing.T) {
	t.Parallel()
	for after, want := range map[string]string{
		"0": "0s", "1": "1s", "86401": "24h0m1s", "31536000": "8760h0m0s", "4294967296": "1193046h28m16s",
		"99999999999999999999999": "2562047h47m16s", "Thu, 01 Jan 1970 00:00:00 GMT": "0s",
		"": "none", "1.5": "none", "+1": "none",
	} {
		wait, named := waitOf(after, delivery("").Event.Time)
		got := "none"
		if named {
			got = wait.String()
		}
		if got != want {
			t.Errorf("Retry-After %q: got %s, want %s", after, got, want)
		}
	}
}
