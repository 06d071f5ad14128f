package main

import (
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/rishi-platform/millrace/pipeline"
)

// A server that has looked at a part of what it has says where to go on: the event that is there is found.
func TestP20HistoryOfAServerGoesOn(t *testing.T) {
	t.Parallel()
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		after, limit := r.URL.Query().Get("after"), r.URL.Query().Get("limit")
		switch {
		case after == "" && limit == "2":
			fmt.Fprint(w, `{"events":[{"specversion":"1.0","source":"s","id":"first","type":"a.b"}],"next":"n1","complete":false}`)
		case after == "n1" && limit == "1":
			fmt.Fprint(w, `{"events":[],"next":"n2","complete":false}`)
		case after == "n2" && limit == "1":
			fmt.Fprint(w, `{"events":[{"specversion":"1.0","source":"s","id":"second","type":"a.b"}],"next":null,"complete":true}`)
		default:
			http.Error(w, "after "+after+" limit "+limit, http.StatusBadRequest)
		}
	}))
	defer server.Close()
	client, err := newServerClient(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	err = client.history(t.Context(), url.Values{}, 2, func(r pipeline.Record) error { got = append(got, r.ID); return nil })
	if err != nil || !slices.Equal(got, []string{"first", "second"}) || asked != 3 {
		t.Errorf("%v after %d requests, error %v", got, asked, err)
	}
}

func TestP20NameOfAStreamIsAllOfIt(t *testing.T) {
	t.Parallel()
	if got := orStream([]string{"order", "booking.*", "**", "a.b"}); !slices.Equal(got, []string{"order", "order.**", "booking.*", "**", "a.b"}) {
		t.Errorf("got %v", got)
	}
}

// What is no file of its own is not renamed over.
func TestP26CursorIsARegularFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, link := filepath.Join(dir, "cursor"), filepath.Join(dir, "link")
	if err := os.WriteFile(file, []byte("c\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, link, os.DevNull} {
		if _, err := readCursor(path); err == nil {
			t.Errorf("%s is taken", path)
		}
	}
	if c, err := readCursor(file); err != nil || c != "c" {
		t.Errorf("%q, %v", c, err)
	}
	if c, err := readCursor(filepath.Join(dir, "new")); err != nil || c != "" {
		t.Errorf("%q, %v", c, err)
	}
}

// brokenPipe is a log that nobody reads any more.
type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) {
	return 0, &fs.PathError{Op: "write", Path: os.Stdout.Name(), Err: syscall.EPIPE}
}

// Nobody reads the log any more: that begins an end, once, and is no reason to die. Of what is printed it is the end; of a connection it is an error.
func TestP22ReaderIsGone(t *testing.T) {
	log := logWriter{brokenPipe{}}
	for range 3 {
		if _, err := log.Write([]byte("line")); !isReaderGone(err) {
			t.Errorf("error %v", err)
		}
	}
	select {
	case <-logGone:
	default:
		t.Error("it is not told")
	}
	if len(logGone) > 0 {
		t.Error("it is told twice")
	}
	if isReaderGone(&net.OpError{Op: "write", Err: syscall.EPIPE}) {
		t.Error("a connection is taken for the output")
	}
}
