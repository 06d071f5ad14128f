package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rishi-platform/millrace/pipeline"
)

// serverClient speaks HTTP to a server.
type serverClient struct {
	base *url.URL
	http http.Client
}

func newServerClient(server string) (*serverClient, error) {
	base, err := url.Parse(server)
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" {
		return nil, usagef("--server %q: want http://host:port", server)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = (&net.Dialer{Timeout: oneShotTimeout}).DialContext
	transport.ResponseHeaderTimeout = oneShotTimeout
	return &serverClient{base: base, http: http.Client{Transport: transport}}, nil
}

// problem is what a server answers when it refuses (RFC 9457).
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
	Errors []struct {
		Location string `json:"location"`
		Message  string `json:"message"`
	} `json:"errors"`
}

// do makes a request and returns status and body; an answer that is no success is an error, unless its status is accepted.
func (c *serverClient) do(ctx context.Context, method, path string, query url.Values, header http.Header, body []byte, accepted ...int) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, oneShotTimeout)
	defer cancel()
	response, err := c.ask(ctx, method, path, query, header, body, accepted...)
	if err != nil {
		return nil, err
	}
	defer response.Close()
	answer, err := io.ReadAll(response)
	if err != nil {
		return nil, fmt.Errorf("read answer of %s: %w", c.base.Host, err)
	}
	return answer, nil
}

// ask is do for an answer that is read bit by bit, and may take as long as that takes, while something comes.
func (c *serverClient) ask(ctx context.Context, method, path string, query url.Values, header http.Header, body []byte, accepted ...int) (io.ReadCloser, error) {
	target := c.base.JoinPath(path)
	target.RawQuery = query.Encode()
	ctx, cancel := context.WithCancelCause(ctx)
	request, err := http.NewRequestWithContext(ctx, method, target.String(), bytes.NewReader(body))
	if err != nil {
		cancel(nil)
		return nil, err
	}
	maps.Copy(request.Header, header)
	response, err := c.http.Do(request)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	response.Body = &livelyBody{response.Body, time.AfterFunc(silentTimeout, func() { cancel(errSilent) }), cancel}
	if response.StatusCode/100 == 2 || slices.Contains(accepted, response.StatusCode) {
		return response.Body, nil
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("read answer of %s: %w", c.base.Host, err)
	}
	return nil, refusal(response.StatusCode, answer)
}

// silentTimeout is how long an answer may stop in its middle.
const silentTimeout = 30 * time.Second

var errSilent = fmt.Errorf("nothing came for %v", silentTimeout)

// livelyBody is an answer that is given up when nothing comes any more.
type livelyBody struct {
	io.ReadCloser
	timer  *time.Timer
	cancel context.CancelCauseFunc
}

func (b *livelyBody) Read(p []byte) (int, error) {
	b.timer.Reset(silentTimeout)
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop() // whoever reads may take his time
	return n, err
}

func (b *livelyBody) Close() error {
	b.timer.Stop()
	defer b.cancel(nil)
	return b.ReadCloser.Close()
}

// refusal is a problem as an error; what is wrong with the request is a mistake in the command line.
func refusal(status int, answer []byte) error {
	var p problem
	if json.Unmarshal(answer, &p) != nil || p.Type == "" {
		return fmt.Errorf("server answers %d %s", status, http.StatusText(status))
	}
	text := []string{strings.TrimPrefix(p.Type, "urn:millrace:problem:")}
	if p.Detail != "" {
		text = append(text, p.Detail)
	}
	for _, e := range p.Errors {
		text = append(text, e.Location+" "+e.Message)
	}
	err := fmt.Errorf("server answers %d: %s", status, strings.Join(text, ": "))
	if status == http.StatusUnprocessableEntity {
		return &usageError{err}
	}
	return err
}

// publish publishes the events as one batch of CloudEvents.
func (c *serverClient) publish(ctx context.Context, key string, events []pipeline.Event) ([]receipt, error) {
	bodies := make([]simpleEvent, len(events))
	for i, e := range events {
		bodies[i] = simpleEvent{
			ID: e.ID, Type: e.Type, Subject: e.Subject, UserID: e.UserID, OrganizationID: e.OrganizationID, CorrelationID: e.CorrelationID,
			CausationID: e.CausationID, ContentType: e.ContentType, Metadata: e.Header, Payload: e.Data,
		}
	}
	body, err := json.Marshal(bodies)
	if err != nil {
		return nil, fmt.Errorf("encode events (a server takes JSON payloads only): %w", err)
	}
	header := http.Header{"Content-Type": {pipeline.ContentTypeJSON}}
	if key != "" {
		header.Set("Idempotency-Key", key)
	}
	answer, err := c.do(ctx, http.MethodPost, "/api/events/publish", nil, header, body)
	if err != nil {
		return nil, err
	}
	var result struct {
		Events []receipt `json:"events"`
	}
	if err := json.Unmarshal(answer, &result); err != nil {
		return nil, fmt.Errorf("read receipts: %w", err)
	}
	for _, r := range result.Events {
		if !r.kept() {
			return result.Events, fmt.Errorf("server did not keep event %s: %s", r.ID, r.Durability)
		}
	}
	return result.Events, nil
}

// simpleEvent is the simple form of an event in the HTTP API.
type simpleEvent struct {
	ID             string            `json:"id,omitempty"`
	Type           string            `json:"type"`
	Subject        string            `json:"subject,omitempty"`
	UserID         string            `json:"userId,omitempty"`
	OrganizationID string            `json:"organizationId,omitempty"`
	CorrelationID  string            `json:"correlationId,omitempty"`
	CausationID    string            `json:"causationId,omitempty"`
	ContentType    string            `json:"contentType,omitempty"`
	Metadata       map[string]string `json:"metadata,omitempty"`
	Payload        json.RawMessage   `json:"payload,omitempty"`
}

// history yields up to limit events that a server answers to a query. A server looks at a part of what it has for each request, and says where to go on.
func (c *serverClient) history(ctx context.Context, query url.Values, limit int, yield func(pipeline.Record) error) error {
	for {
		query.Set("limit", strconv.Itoa(limit))
		answer, err := c.ask(ctx, http.MethodGet, "/api/events/history", query, nil, nil)
		if err != nil {
			return err
		}
		page := historyPage{yield: yield}
		err = errors.Join(page.read(answer), answer.Close())
		if limit -= page.events; err != nil || limit <= 0 || page.complete || page.next == "" {
			return err
		}
		query.Set("after", page.next)
	}
}

// historyPage is an answer to a history request, which is read event by event.
type historyPage struct {
	yield    func(pipeline.Record) error
	events   int
	next     string
	complete bool // else what matches may stand further on
}

func (p *historyPage) read(answer io.Reader) error {
	dec := json.NewDecoder(answer)
	err := eachMember(dec, func(name string) error {
		switch name {
		case "events":
			return p.readEvents(dec)
		case "next":
			var next *string
			err := dec.Decode(&next)
			if next != nil {
				p.next = *next
			}
			return err
		case "complete":
			return dec.Decode(&p.complete)
		}
		return dec.Decode(new(json.RawMessage)) // of a newer server
	})
	if shown := (*yieldError)(nil); errors.As(err, &shown) {
		return shown.error
	}
	if err != nil {
		return fmt.Errorf("read history: %w", err)
	}
	return nil
}

// yieldError is an error of who is given the events.
type yieldError struct{ error }

func (p *historyPage) readEvents(dec *json.Decoder) error {
	if _, err := dec.Token(); err != nil {
		return err
	}
	for dec.More() {
		var text json.RawMessage
		if err := dec.Decode(&text); err != nil {
			return err
		}
		var r pipeline.Record
		var place struct {
			Stream   string            `json:"stream"`
			Position pipeline.Position `json:"position"`
		}
		if err := errors.Join(json.Unmarshal(text, &r.Event), json.Unmarshal(text, &place)); err != nil {
			return err
		}
		r.Stream, r.Position = place.Stream, place.Position
		p.events++
		if err := p.yield(r); err != nil {
			return &yieldError{err}
		}
	}
	_, err := dec.Token()
	return err
}

// eachMember calls read for each member of an object, to read its value.
func eachMember(dec *json.Decoder, read func(name string) error) error {
	if start, err := dec.Token(); err != nil || start != json.Delim('{') {
		return errors.Join(err, errors.New("want a JSON object"))
	}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return err
		}
		if err := read(token.(string)); err != nil {
			return err
		}
	}
	_, err := dec.Token()
	return err
}
