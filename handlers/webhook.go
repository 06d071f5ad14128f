package handlers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/rishi-platform/millrace/pipeline"
	"github.com/rishi-platform/millrace/router"
)

// WebhookConfig varies Webhook. The zero value is useful.
type WebhookConfig struct {
	// Timeout bounds one request, its answer included. Default: 30 s. A request that is sent again
	// since its connection had been closed has as much.
	Timeout time.Duration
	// Header returns headers to send besides ours: traceparent, a signature. Default: none.
	Header func(ctx context.Context, d *pipeline.Delivery) http.Header
	// Transport sends the requests. Default: one like http.DefaultTransport that keeps up to 64
	// idle connections. A request that is sent again goes over a copy of it that uses no connection
	// twice, where it is a *http.Transport.
	Transport http.RoundTripper
}

// maxAnswer is how much of an answer is read so that its connection can be used again.
const maxAnswer = 64 << 10

// StatusError is the failure of a webhook that answered something else than 2xx.
type StatusError struct {
	URL    string // without user, query and fragment, which may hold secrets
	Status int
	// Body is the beginning of what was answered, at most 500 bytes of UTF-8 without control
	// characters. What it repeats of user and query of the URL is left out.
	Body string
}

func (e *StatusError) Error() string {
	text := fmt.Sprintf("post %s: status %d %s", e.URL, e.Status, http.StatusText(e.Status))
	if e.Body != "" {
		// In quotes, which keep it out of the fingerprint of the failure: an answer may hold a
		// request ID.
		text += ": `" + strings.ReplaceAll(e.Body, "`", "'") + "`"
	}
	return text
}

func (e *StatusError) ok() bool { return e.Status >= 200 && e.Status <= 299 }

// ErrorType is the status code, as the semantic conventions of OpenTelemetry have it for error.type.
func (e *StatusError) ErrorType() string { return strconv.Itoa(e.Status) }

// Webhook returns a handler that posts each event to target, an http or https URL, as a structured
// CloudEvent (application/cloudevents+json) with the headers X-Correlation-ID, Millrace-Group and
// Millrace-Attempt. 2xx acknowledges. 400, 410, 413, 415 and 422 say that no retry will help, and
// the event becomes a dead letter. Any other status is a failure: 401, 403 and 404 too, since that
// is what a service answers while it is deployed or its keys are changed. So are redirects:
// following one would send the event where nobody configured it to go. A failure with a Retry-After
// says "later", at no cost of an attempt; at most 24 h are obeyed, and 0 or a time in the past
// means the back-off of the group. The error wraps a *StatusError.
//
// Where the server closes a connection that was used before and answers nothing, which happens when
// it does so at the moment of the request, the request is sent once more, on a new connection.
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
		url:     target,
		name:    (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String(),
		header:  cfg.Header,
		secrets: secretsOf(u),
		client: http.Client{
			Transport:     cfg.Transport,
			Timeout:       cfg.Timeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	w.fresh = w.client
	if t, ok := cfg.Transport.(*http.Transport); ok {
		t = t.Clone()
		t.DisableKeepAlives = true
		w.fresh.Transport = t
	}
	return w.handle, nil
}

type webhook struct {
	url     string
	name    string // the URL as it may be shown
	secrets []string
	header  func(context.Context, *pipeline.Delivery) http.Header
	client  http.Client
	fresh   http.Client // each of its requests has a connection of its own, where that can be had
}

func (w *webhook) handle(ctx context.Context, d *pipeline.Delivery) error {
	resp, err := w.send(ctx, d)
	if err != nil {
		var sent *url.Error // it quotes the whole URL as well
		if errors.As(err, &sent) {
			err = sent.Err
		}
		return fmt.Errorf("post %s: %w", w.name, err)
	}
	defer resp.Body.Close()
	answer := &StatusError{URL: w.name, Status: resp.StatusCode}
	if !answer.ok() {
		// The status has decided already, whether the rest can be read or not.
		begin, _ := io.ReadAll(io.LimitReader(resp.Body, maxShown))
		answer.Body = shown(begin, w.secrets)
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer)) // likewise
	return judge(answer, resp.Header.Get("Retry-After"))
}

// send posts the event, and once more where the server closed the connection instead of answering.
func (w *webhook) send(ctx context.Context, d *pipeline.Delivery) (*http.Response, error) {
	var used usedConnection
	req, err := w.request(used.watch(ctx), d)
	if err != nil {
		return nil, err
	}
	resp, err := w.client.Do(req)
	if err == nil || ctx.Err() != nil || !used.closedUnanswered(err) {
		return resp, err
	}
	if req, err = w.request(ctx, d); err != nil {
		return nil, err
	}
	return w.fresh.Do(req)
}

// judge says what the status of an answer means for the event.
func judge(answer *StatusError, after string) error {
	if answer.ok() {
		return nil
	}
	switch answer.Status {
	case http.StatusBadRequest, http.StatusGone, http.StatusRequestEntityTooLarge,
		http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
		return router.Permanent(answer)
	}
	if wait, named := waitOf(after, time.Now()); named {
		return router.RetryAfter(answer, wait)
	}
	return answer
}

// waitOf reads the header Retry-After: seconds, or a date (RFC 9110, 10.2.3). A wait that is longer
// than a Duration can tell is the longest there is.
func waitOf(after string, now time.Time) (wait time.Duration, named bool) {
	seconds, err := strconv.ParseUint(after, 10, 64)
	if err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(min(seconds, math.MaxInt64/uint64(time.Second))) * time.Second, true
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
