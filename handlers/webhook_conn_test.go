package handlers

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rishi-platform/millrace/pipeline"
	"github.com/rishi-platform/millrace/router"
)

const (
	answerOK = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	cut      = "" // an answer that never begins: the connection is closed instead
)

// connections is an HTTP server that plays a script: what it answers to each request of each
// connection. It closes a connection whose answers are used up.
type connections struct {
	script [][]string
	read   int // bytes of a request that gets no answer; 0: all of it

	mu  sync.Mutex // guards what follows
	got []string   // connection, attempt and event of each request that was read as a whole
}

func (c *connections) serve(t *testing.T) (url string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for n := 0; ; n++ {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { c.play(conn, n) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		serving.Wait()
	})
	return "http://" + listener.Addr().String() + "/in"
}

func (c *connections) play(conn net.Conn, n int) {
	defer conn.Close()
	if n >= len(c.script) {
		return
	}
	in := bufio.NewReaderSize(conn, 64)
	for _, answer := range c.script[n] {
		if answer == cut && c.read > 0 {
			_, _ = io.ReadFull(in, make([]byte, c.read))
			return // what is unread makes it a reset
		}
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		c.mu.Lock()
		text := "connection " + string(rune('0'+n)) + " attempt " + req.Header.Get("Millrace-Attempt")
		if !strings.Contains(string(body), `"id":"e-1"`) {
			text += " without the event"
		}
		c.got = append(c.got, text)
		c.mu.Unlock()
		if answer == cut {
			return
		}
		if _, err := io.WriteString(conn, answer); err != nil {
			return
		}
	}
}

func (c *connections) requests() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.got
}

// sender returns a webhook with connections of its own, which end with the test.
func sender(t *testing.T, url string, timeout time.Duration) router.Handler {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 4}
	t.Cleanup(transport.CloseIdleConnections)
	handle, err := Webhook(url, WebhookConfig{Transport: transport, Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	return handle
}

// A server that closes a connection when a request is on its way has not failed: the request is
// sent once more, on a new connection, within the same attempt.
func TestG10WebhookConnectionThatWasClosedUnanswered(t *testing.T) {
	t.Parallel()
	const begun = "HTTP/1.1 200 OK\r\nContent-Le"
	once := [][]string{{answerOK, cut}, {answerOK}}
	for name, test := range map[string]struct {
		script  [][]string
		fails   bool // the second delivery; the first is handled
		payload string
		read    int
		want    string // connections that a whole request came over
	}{
		"closed":                {script: once, want: "0 0 1"},
		"closed at once":        {script: once, read: 1, want: "0 1"},
		"reset in a large body": {script: once, read: 5000, payload: strings.Repeat("x", 8<<20), want: "0 1"},
		"closed twice":          {script: [][]string{{answerOK, cut}, {cut}, {answerOK}}, fails: true, want: "0 0 1"},
		"an answer had begun":   {script: [][]string{{answerOK, begun}, {answerOK}}, fails: true, want: "0 0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := &connections{script: test.script, read: test.read}
			handle := sender(t, server.serve(t), 0)
			if err := handle(t.Context(), delivery(`{}`)); err != nil {
				t.Fatal(err)
			}
			err := handle(t.Context(), delivery(`"`+test.payload+`"`))
			if (err != nil) != test.fails {
				t.Errorf("got %v, want a failure: %v", err, test.fails)
			}
			var later *pipeline.RetryAfterError
			var permanent *pipeline.PermanentError
			if errors.As(err, &later) || errors.As(err, &permanent) {
				t.Errorf("got %v, want a plain failure", err)
			}
			var want []string
			for n := range strings.FieldsSeq(test.want) {
				want = append(want, "connection "+n+" attempt 2")
			}
			if diff := cmp.Diff(want, server.requests()); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
		})
	}
}

// Over a new connection there is no such race: that the server closes it is a failure.
func TestG10WebhookNewConnectionThatWasClosed(t *testing.T) {
	t.Parallel()
	server := &connections{script: [][]string{{cut}, {answerOK}}}
	if err := sender(t, server.serve(t), 0)(t.Context(), delivery(`{}`)); err == nil {
		t.Error("got nil, want a failure")
	}
	if got := server.requests(); len(got) != 1 {
		t.Errorf("sent as %v, want once", got)
	}
}

// A server that says nothing within the timeout may be at it: nothing is sent again.
func TestG10WebhookTimeoutOnAUsedConnection(t *testing.T) {
	t.Parallel()
	var requests atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if requests.Add(1) > 1 {
			<-r.Context().Done()
		}
	}))
	t.Cleanup(server.Close)
	var handles []router.Handler // over one transport
	for _, timeout := range []time.Duration{time.Minute, 200 * time.Millisecond} {
		cfg := WebhookConfig{Timeout: timeout, Transport: server.Client().Transport}
		handle, err := Webhook(server.URL, cfg)
		if err != nil {
			t.Fatal(err)
		}
		handles = append(handles, handle)
	}
	if err := handles[0](t.Context(), delivery(`{}`)); err != nil {
		t.Fatal(err)
	}
	if err := handles[1](t.Context(), delivery(`{}`)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want context.DeadlineExceeded", err)
	}
	if n := requests.Load(); n > 2 {
		t.Errorf("got %d requests, want one a delivery", n)
	}
}
