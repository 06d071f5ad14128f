package handlers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/rishi-platform/millrace/pipeline"
	"github.com/rishi-platform/millrace/router"
)

// WebhookConfig varies Webhook. The zero value is useful.
type WebhookConfig struct {
	// Timeout bounds one request, its answer included. Default: 30 s.
	Timeout time.Duration
	// Header returns headers to send besides ours: traceparent, a signature. Default: none.
	Header func(ctx context.Context, d *pipeline.Delivery) http.Header
	// Transport sends the requests. Default: one like http.DefaultTransport that keeps up to 64 idle connections.
	Transport http.RoundTripper
}

// maxAnswer is how much of an answer is read so that its connection can be used again.
const maxAnswer = 64 << 10

// StatusError is the failure of a webhook that answered something else than 2xx.
type StatusError struct {
	URL    string // without user, query and fragment, which may hold secrets
	Status int
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("post %s: status %d %s", e.URL, e.Status, http.StatusText(e.Status))
}

// ErrorType is the status code, as the semantic conventions of OpenTelemetry have it for error.type.
func (e *StatusError) ErrorType() string { return strconv.Itoa(e.Status) }

// Webhook returns a handler that posts each event to target, an http or https URL, as a structured CloudEvent
// (application/cloudevents+json) with the headers X-Correlation-ID, Millrace-Group and Millrace-Attempt. 2xx acknowledges. 4xx says that no
// retry will help, and the event becomes a dead letter; but 408, 425 and 429, and any other status, are failures. A failure with a
// Retry-After says "later", at no cost of an attempt. The error wraps a *StatusError. Redirects are failures too: following one would
// send the event where nobody configured it to go.
func Webhook(target string, cfg WebhookConfig) (router.Handler, error) {
	u, err := url.Parse(target)
	if err != nil {
		// The text of a url.Error quotes the whole URL, its secrets too.
		var parse *url.Error
		if errors.As(err, &parse) {
			err = parse.Err
		}
		return nil, fmt.Errorf("webhook URL: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("webhook URL: want http:// or https:// and a host")
	}
	if cfg.Timeout < 0 {
		return nil, errors.New("webhook timeout is negative")
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second
	}
	if cfg.Transport == nil {
		// The default keeps 2 idle connections per host, so a busy group would open one for almost every event.
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.MaxIdleConnsPerHost = 64
		cfg.Transport = t
	}
	w := &webhook{
		url:    target,
		name:   (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String(),
		header: cfg.Header,
		client: http.Client{
			Transport:     cfg.Transport,
			Timeout:       cfg.Timeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	return w.handle, nil
}

type webhook struct {
	url    string
	name   string // the URL as it may be shown
	header func(context.Context, *pipeline.Delivery) http.Header
	client http.Client
}

func (w *webhook) handle(ctx context.Context, d *pipeline.Delivery) error {
	req, err := w.request(ctx, d)
	if err != nil {
		return fmt.Errorf("post %s: %w", w.name, err)
	}
	resp, err := w.client.Do(req)
	if err != nil {
		var sent *url.Error // it quotes the whole URL as well
		if errors.As(err, &sent) {
			err = sent.Err
		}
		return fmt.Errorf("post %s: %w", w.name, err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer)) // the status has decided already
	return judge(&StatusError{URL: w.name, Status: resp.StatusCode}, resp.Header.Get("Retry-After"))
}

// judge says what the status of an answer means for the event.
func judge(answer *StatusError, after string) error {
	switch status := answer.Status; {
	case status >= 200 && status <= 299:
		return nil
	case status >= 400 && status <= 499 && status != http.StatusRequestTimeout && status != http.StatusTooEarly && status != http.StatusTooManyRequests:
		return router.Permanent(answer)
	}
	if wait, named := waitOf(after, time.Now()); named {
		return router.RetryAfter(answer, wait)
	}
	return answer
}

// waitOf reads the header Retry-After: seconds, or a date (RFC 9110, 10.2.3).
func waitOf(after string, now time.Time) (wait time.Duration, named bool) {
	if seconds, err := strconv.ParseUint(after, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second, true
	}
	if at, err := http.ParseTime(after); err == nil {
		return max(0, at.Sub(now)), true
	}
	return 0, false
}

func (w *webhook) request(ctx context.Context, d *pipeline.Delivery) (*http.Request, error) {
	body, err := json.Marshal(d.Event)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "millrace")
	if w.header != nil {
		maps.Copy(req.Header, w.header(ctx, d))
	}
	req.Header.Set("Content-Type", "application/cloudevents+json")
	if pipeline.ValidCorrelationID(d.Event.CorrelationID) { // one of other software may hold what no header can
		req.Header.Set(pipeline.HeaderCorrelationID, d.Event.CorrelationID)
	}
	req.Header.Set("Millrace-Group", d.Group)
	req.Header.Set("Millrace-Attempt", strconv.Itoa(d.Attempt))
	return req, nil
}
