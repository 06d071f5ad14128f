package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"

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
	return &serverClient{base: base, http: http.Client{Timeout: oneShotTimeout}}, nil
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
	target := c.base.JoinPath(path)
	target.RawQuery = query.Encode()
	request, err := http.NewRequestWithContext(ctx, method, target.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	maps.Copy(request.Header, header)
	response, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("read answer of %s: %w", c.base.Host, err)
	}
	if response.StatusCode/100 == 2 {
		return answer, nil
	}
	for _, status := range accepted {
		if response.StatusCode == status {
			return answer, nil
		}
	}
	return nil, refusal(response.StatusCode, answer)
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
		answer, err := c.do(ctx, http.MethodGet, "/api/events/history", query, nil, nil)
		if err != nil {
			return err
		}
		page := historyPage{Complete: true}
		if err := json.Unmarshal(answer, &page); err != nil {
			return fmt.Errorf("read history: %w", err)
		}
		if err := page.each(yield); err != nil {
			return err
		}
		if limit -= len(page.Events); limit <= 0 || page.Complete || page.Next == "" {
			return nil
		}
		query.Set("after", page.Next)
	}
}

// historyPage is an answer to a history request.
type historyPage struct {
	Events   []json.RawMessage `json:"events"`
	Next     string            `json:"next"`
	Complete bool              `json:"complete"` // else what matches may stand further on
}

func (p *historyPage) each(yield func(pipeline.Record) error) error {
	for _, text := range p.Events {
		var r pipeline.Record
		var place struct {
			Stream   string            `json:"stream"`
			Position pipeline.Position `json:"position"`
		}
		if err := json.Unmarshal(text, &r.Event); err != nil {
			return err
		}
		if err := json.Unmarshal(text, &place); err != nil {
			return err
		}
		r.Stream, r.Position = place.Stream, place.Position
		if err := yield(r); err != nil {
			return err
		}
	}
	return nil
}
