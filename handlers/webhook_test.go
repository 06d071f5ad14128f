package handlers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rishi-platform/millrace/pipeline"
	"github.com/rishi-platform/millrace/router"
)

// hook returns a handler that posts to a server with the given behaviour, below the path and query given.
func hook(t *testing.T, path string, cfg WebhookConfig, serve http.HandlerFunc) router.Handler {
	t.Helper()
	server := httptest.NewServer(serve)
	t.Cleanup(server.Close)
	cfg.Transport = server.Client().Transport
	handle, err := Webhook(server.URL+path, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return handle
}

func TestWebhookPostsACloudEvent(t *testing.T) {
	t.Parallel()
	payload := strings.Repeat("x", 1<<20)
	type request struct {
		Method, Path, ContentType, Correlation, Group, Attempt, Trace string
	}
	var (
		got  request
		body []byte
	)
	handle := hook(t, "/events?token=t", WebhookConfig{
		Header: func(_ context.Context, d *pipeline.Delivery) http.Header {
			return http.Header{"Traceparent": {"of " + d.Event.ID}, "Content-Type": {"text/plain"}}
		},
	}, func(_ http.ResponseWriter, r *http.Request) {
		got = request{
			r.Method, r.URL.String(), r.Header.Get("Content-Type"), r.Header.Get("X-Correlation-ID"),
			r.Header.Get("Millrace-Group"), r.Header.Get("Millrace-Attempt"), r.Header.Get("traceparent"),
		}
		body, _ = io.ReadAll(r.Body)
	})
	if err := handle(t.Context(), delivery(`"`+payload+`"`)); err != nil {
		t.Fatal(err)
	}
	want := request{"POST", "/events?token=t", "application/cloudevents+json", "abc-1", "mail", "2", "of e-1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("request: -want +got:\n%s", diff)
	}
	var event struct{ SpecVersion, ID, Type, Data string }
	if err := json.Unmarshal(body, &event); err != nil {
		t.Fatal(err)
	}
	if event.SpecVersion != "1.0" || event.ID != "e-1" || event.Type != "invoice.issued" || event.Data != payload {
		t.Errorf("got a body of %d bytes that is not the event", len(body))
	}
}

func TestWebhookStatus(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		status int
		acks   bool
	}{
		{200, true}, {202, true}, {204, true}, {299, true},
		{302, false}, {304, false}, {307, false}, {308, false}, {400, false}, {404, false}, {429, false}, {500, false}, {503, false},
	} {
		t.Run(http.StatusText(test.status), func(t *testing.T) {
			t.Parallel()
			handle := hook(t, "/in?token=secret", WebhookConfig{}, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/elsewhere" {
					t.Error("a redirect was followed")
				}
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(test.status)
			})
			err := handle(t.Context(), delivery(`{}`))
			if test.acks {
				if err != nil {
					t.Fatalf("got %v, want nil", err)
				}
				return
			}
			var status *StatusError
			if !errors.As(err, &status) || status.Status != test.status {
				t.Fatalf("got %v, want a *StatusError with status %d", err, test.status)
			}
			if text := err.Error(); !strings.Contains(text, "/in: status") || strings.Contains(text, "secret") {
				t.Errorf("got %q, want the URL without its query, and the status", text)
			}
		})
	}
}

func TestWebhookStatusSaysWhetherARetryHelps(t *testing.T) {
	t.Parallel()
	type verdict struct {
		Permanent, Later bool
		After            time.Duration
	}
	soon := time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)
	for _, test := range []struct {
		status int
		after  string // Retry-After
		want   verdict
	}{
		{400, "", verdict{Permanent: true}}, {410, "5", verdict{Permanent: true}},
		{422, "", verdict{Permanent: true}}, {401, "", verdict{}}, {403, "", verdict{}},
		{404, "", verdict{}}, {404, "7", verdict{Later: true, After: 7 * time.Second}},
		{408, "", verdict{}}, {425, "", verdict{}}, {429, "", verdict{}}, {302, "", verdict{}}, {500, "", verdict{}}, {503, "", verdict{}},
		{429, "7", verdict{Later: true, After: 7 * time.Second}}, {503, "120", verdict{Later: true, After: 2 * time.Minute}},
		{302, "7", verdict{Later: true, After: 7 * time.Second}}, {408, "7", verdict{Later: true, After: 7 * time.Second}},
		{425, "7", verdict{Later: true, After: 7 * time.Second}}, {503, "Thu, 01 Jan 2026 00:00:00 GMT", verdict{Later: true}},
		{503, "0", verdict{Later: true}}, {503, soon, verdict{Later: true, After: time.Hour}}, {503, "soon", verdict{}}, {503, "-3", verdict{}},
	} {
		t.Run(fmt.Sprint(test.status, " ", test.after), func(t *testing.T) {
			t.Parallel()
			err := hook(t, "/", WebhookConfig{}, func(w http.ResponseWriter, _ *http.Request) {
				if test.after != "" {
					w.Header().Set("Retry-After", test.after)
				}
				w.WriteHeader(test.status)
			})(t.Context(), delivery(`{}`))
			var status *StatusError
			if !errors.As(err, &status) {
				t.Fatalf("got %v, want a *StatusError", err)
			}
			var permanent *pipeline.PermanentError
			var later *pipeline.RetryAfterError
			got := verdict{Permanent: errors.As(err, &permanent), Later: errors.As(err, &later)}
			if later != nil {
				got.After = later.After.Round(time.Minute)
				if later.After < time.Minute {
					got.After = later.After
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// Just these statuses say that the same request will never do. 401, 403 and 404 are what a service
// answers while it is deployed.
func TestG10WebhookGivesUpOnFewStatuses(t *testing.T) {
	t.Parallel()
	never := []int{400, 410, 413, 415, 422}
	for status := 200; status <= 599; status++ {
		err := judge(&StatusError{Status: status}, "")
		var permanent *pipeline.PermanentError
		got := errors.As(err, &permanent)
		if want := slices.Contains(never, status); got != want || (err == nil) != (status/100 == 2) {
			t.Errorf("%d: got %v, want permanent %v", status, err, want)
		}
	}
	if err := judge(&StatusError{Status: 200}, "30"); err != nil {
		t.Errorf("200 with Retry-After: got %v, want nil", err)
	}
}

// What got no answer may have been handled or not: it is neither the event's fault nor a promise for later.
func TestWebhookWithoutAnAnswerIsAPlainFailure(t *testing.T) {
	t.Parallel()
	handle := hook(t, "/", WebhookConfig{}, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	err := handle(t.Context(), delivery(`{}`))
	var permanent *pipeline.PermanentError
	var later *pipeline.RetryAfterError
	if err == nil || errors.As(err, &permanent) || errors.As(err, &later) {
		t.Errorf("got %v, want a plain failure", err)
	}
}

func TestWebhookReadsABoundedPartOfTheAnswer(t *testing.T) {
	t.Parallel()
	stopped := make(chan struct{})
	handle := hook(t, "/", WebhookConfig{Timeout: time.Hour}, func(w http.ResponseWriter, _ *http.Request) {
		defer close(stopped)
		chunk := make([]byte, 32<<10)
		for {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	if err := handle(t.Context(), delivery(`{}`)); err != nil {
		t.Fatal(err)
	}
	<-stopped
}

func TestWebhookEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	handle := hook(t, "/", WebhookConfig{}, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // the server notices a client that is gone only once the body was read
		cancel()
		<-r.Context().Done()
	})
	if err := handle(ctx, delivery(`{}`)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

func TestWebhookTimesOut(t *testing.T) {
	t.Parallel()
	handle := hook(t, "/", WebhookConfig{Timeout: 20 * time.Millisecond}, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})
	if err := handle(t.Context(), delivery(`{}`)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want context.DeadlineExceeded", err)
	}
}

func TestWebhookKeepsSecretsOutOfItsErrors(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close() // its port refuses connections now
	handle, err := Webhook(strings.Replace(server.URL, "http://", "http://me:secret@", 1)+"/in?token=secret", WebhookConfig{})
	if err != nil {
		t.Fatal(err)
	}
	err = handle(t.Context(), delivery(`{}`))
	if err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), server.URL+"/in") {
		t.Errorf("got %v, want an error that names %s/in and no secret", err, server.URL)
	}
}

func TestWebhookRefusesBadConfiguration(t *testing.T) {
	t.Parallel()
	for _, target := range []string{"", "example.com/in", "/in", "ftp://example.com", "http://", "http://u:secret@[::1/in", "http://h/%zz?secret"} {
		if _, err := Webhook(target, WebhookConfig{}); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: got %v, want an error without secrets", target, err)
		}
	}
	if _, err := Webhook("http://localhost", WebhookConfig{Timeout: -1}); err == nil {
		t.Error("negative timeout: got nil, want an error")
	}
}
