package httpapi_test

import (
	"context"
	"errors"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/rishi-platform/millrace/handlers/httpapi"
	"github.com/rishi-platform/millrace/pipeline"
)

// wholePage is a page of the history as a client reads it.
type wholePage struct {
	Events   []struct{ ID string }
	Next     *string
	Complete bool
}

// A page of large events ends early, and says where to go on. A bare batch has all.
func TestP23PageHasABudgetOfBytes(t *testing.T) {
	t.Parallel()
	h, b := inMemory(t)
	large := []byte(`"` + strings.Repeat("x", 1<<20-2) + `"`)
	for range 20 {
		if _, err := b.Publish(t.Context(), pipeline.Event{Type: "booking.created", Data: large}); err != nil {
			t.Fatal(err)
		}
	}
	var first, second wholePage
	get(t, h, historyPath+"?limit=20").into(t, &first)
	if n := len(first.Events); n != 16 || first.Complete || first.Next == nil {
		t.Fatalf("the first page has %d events, complete %v, next %v", n, first.Complete, first.Next)
	}
	get(t, h, historyPath+"?limit=20&after="+*first.Next).into(t, &second)
	if n := len(second.Events); n != 4 || !second.Complete || second.Next != nil || second.Events[0].ID == first.Events[15].ID {
		t.Errorf("the second page has %d events, complete %v, next %v", n, second.Complete, second.Next)
	}
	var batch []struct{ ID string }
	get(t, h, historyPath+"?limit=20", "Accept: application/cloudevents-batch+json").into(t, &batch)
	if len(batch) != 20 {
		t.Errorf("the batch has %d events", len(batch))
	}
}

// breaking is a bus whose history breaks off behind so many events.
type breaking struct {
	httpapi.Bus
	after int
}

var errBroken = errors.New("broken off")

func (b breaking) History(ctx context.Context, q pipeline.Query) iter.Seq2[pipeline.Record, error] {
	return func(yield func(pipeline.Record, error) bool) {
		n := 0
		for r, err := range b.Bus.History(ctx, q) {
			if n == b.after {
				yield(pipeline.Record{}, errBroken)
				return
			}
			n++
			if !yield(r, err) {
				return
			}
		}
	}
}

// Reading breaks off: before anything was sent that is a problem; later the page says that it is not complete, and a bare batch is cut off.
func TestP23PageThatBreaksOff(t *testing.T) {
	t.Parallel()
	_, b := inMemory(t)
	large := []byte(`"` + strings.Repeat("x", 50<<10) + `"`)
	for range 5 {
		if _, err := b.Publish(t.Context(), pipeline.Event{Type: "booking.created", Data: large}); err != nil {
			t.Fatal(err)
		}
	}
	if a := get(t, newAPI(breaking{b, 1}), historyPath); a.status != http.StatusInternalServerError {
		t.Errorf("got %d", a.status)
	}
	h := newAPI(breaking{b, 3})
	var first, rest wholePage
	get(t, h, historyPath).into(t, &first)
	if len(first.Events) != 3 || first.Complete || first.Next == nil {
		t.Fatalf("got %d events, complete %v, next %v", len(first.Events), first.Complete, first.Next)
	}
	get(t, h, historyPath+"?after="+*first.Next).into(t, &rest)
	if len(rest.Events) != 2 || !rest.Complete {
		t.Errorf("got %d events, complete %v", len(rest.Events), rest.Complete)
	}
	server := httptest.NewServer(h)
	defer server.Close()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+historyPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", "application/cloudevents-batch+json")
	response, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err == nil {
		t.Errorf("the batch seems to be whole, with %d bytes", len(body))
	}
}

// What nobody else could read as JSON is refused in each form.
func TestP23JSONThatOthersCanNotRead(t *testing.T) {
	t.Parallel()
	h, _ := inMemory(t)
	deep := strings.Repeat("[", 513) + strings.Repeat("]", 513)
	post(t, h, `{"type":"booking.created","payload":`+deep+`}`, isJSON).refuses(t, 422, "invalid", "body.payload")
	post(t, h, `{"specversion":"1.0","id":"1","source":"s","type":"booking.created","data":`+deep+`}`, isCloudEvent).refuses(t, 422, "invalid", "body.data")
	post(t, h, deep, "Content-Type: application/json", "Ce-Specversion: 1.0", "Ce-Id: 1", "Ce-Source: s", "Ce-Type: booking.created").refuses(t, 422, "invalid", "body")
	if a := post(t, h, `{"type":"booking.created","payload":`+deep[1:len(deep)-1]+`}`, isJSON); a.status != http.StatusAccepted {
		t.Errorf("512 deep: %d %s", a.status, a.body)
	}
}
