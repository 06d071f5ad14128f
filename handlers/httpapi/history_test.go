package httpapi_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/redistest"
	"github.com/rishi-platform/millrace/pipeline"
)

func TestHistoryRefuses(t *testing.T) {
	t.Parallel()
	h, _ := inMemory(t)
	cursor := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	for query, locations := range map[string][]string{
		"limit=0":                       {"query.limit"},
		"limit=5000":                    {"query.limit"},
		"limit=1001":                    {"query.limit"},
		"limit=-1":                      {"query.limit"},
		"limit=s3cr3t":                  {"query.limit"},
		"limit=":                        {"query.limit"},
		"limit=5.0":                     {"query.limit"},
		"limit=99999999999999999999":    {"query.limit"},
		"limit=5&limit=6":               {"query.limit"},
		"Limit=5":                       {"query"},
		"eventtype=s3cr3t":              {"query"},
		"eventType=S3cr3t%20s3cr3t":     {"query.eventType"},
		"eventType=":                    {"query.eventType"},
		"eventType=a.**.s3cr3t":         {"query.eventType"},
		"eventType=a&eventType=s3cr3t!": {"query.eventType"},
		"eventType=%zz":                 {"query"},
		"limit=5;order=s3cr3t":          {"query"},
		"order=s3cr3t":                  {"query.order"},
		"order=DESC":                    {"query.order"},
		"source=s3cr3t":                 {"query.source"},
		"source=redis":                  {"query.source"}, // there is none
		"since=s3cr3t":                  {"query.since"},
		"since=-2h":                     {"query.since"},
		"since=2":                       {"query.since"},
		"since=2026-02-30T00:00:00Z":    {"query.since"},
		"since=2026-01":                 {"query.since"},
		"until=-1s":                     {"query.until"},
		"since=1h&until=2h":             {"query.until"},
		"since=2026-01-02T00:00:00Z&until=87600h": {"query.until"},
		"after=s3cr3t":                         {"query.after"},
		"after=" + cursor("s3cr3t"):            {"query.after"},
		"after=" + cursor("5-0@S3cr3t"):        {"query.after"},
		"after=" + cursor("5-0"):               {"query.after"},
		"after=" + cursor("5-0@a") + "=":       {"query.after"},
		"since=x&until=y&limit=0&after=s3cr3t": {"query.limit", "query.since", "query.until", "query.after"},
	} {
		a := get(t, h, historyPath+"?"+query)
		if a.refuses(t, 422, "invalid", locations...); t.Failed() {
			t.Fatalf("that was %s", query)
		}
	}
}

func TestHistoryTakes(t *testing.T) {
	t.Parallel()
	h, _ := inMemory(t)
	// The streams are in the order of their names, which decides where positions are equal.
	post(t, h, `{"id":"1","type":"booking.created","subject":"booking/1","userId":"u","organizationId":"o","correlationId":"c"}`, isJSON)
	post(t, h, `{"id":"2","type":"invoice.sent"}`, isJSON)
	post(t, h, `{"id":"3","type":"order.paid"}`, isJSON)
	now := func(offset time.Duration) string {
		return url.QueryEscape(time.Now().Add(offset).Format(time.RFC3339Nano))
	}
	for query, want := range map[string]string{
		"":                                       "3 2 1",
		"order=desc&source=all&limit=1000":       "3 2 1",
		"order=asc":                              "1 2 3",
		"limit=2":                                "3 2",
		"source=local":                           "3 2 1",
		"eventType=booking.created":              "1",
		"eventType=order.*&eventType=invoice.**": "3 2",
		"eventType=booking.*":                    "1", "eventType=*.paid": "3", "eventType=**": "3 2 1",
		"eventType=nowhere.*":                   "",
		"eventType=system.**":                   "",
		"subject=booking/1":                     "1",
		"correlationId=c":                       "1",
		"organizationId=o":                      "1",
		"userId=u":                              "1",
		"userId=U":                              "",
		"subject=&userId=&since=&after=&order=": "3 2 1",
		"since=1h":                              "3 2 1",
		"since=99999h":                          "3 2 1",
		"until=1h":                              "",
		"since=2h&until=1h":                     "",
		"since=" + now(-time.Hour):              "3 2 1",
		"since=" + now(time.Hour):               "",
		"until=" + now(time.Hour):               "3 2 1",
		"until=0001-01-01T00:00:00Z":            "",
		"since=0001-01-01T00:00:00Z":            "3 2 1",
		"since=" + now(time.Hour) + "&until=" + now(2*time.Hour): "",
	} {
		a := get(t, h, historyPath+"?"+query)
		got := page{}
		a.into(t, &got)
		var ids []string
		for _, e := range got.Events {
			ids = append(ids, e.ID)
		}
		if a.status != http.StatusOK || strings.Join(ids, " ") != want || !got.Complete || (got.Next != nil) != (query == "limit=2") {
			t.Errorf("%s: got %d %v, want %q: %s", query, a.status, ids, want, a.body)
		}
	}
}

// page is a page of the history as a client reads it.
type page struct {
	Events []struct {
		ID, Type, Source, Stream, Position string
		Data                               any
	}
	Next     *string
	Complete bool
}

func TestHistoryIsCloudEvents(t *testing.T) {
	t.Parallel()
	h, b := inMemory(t)
	post(t, h, `{"id":"1","type":"booking.created","correlationId":"c","timestamp":"2026-11-24T10:00:00Z","payload":{"html":"<b>","n":1.0}}`, isJSON)
	position := stored(t, b)[0].Position
	event := `{"specversion":"1.0","id":"1","source":"test","type":"booking.created","time":"2026-11-24T10:00:00Z","correlationid":"c","stream":"booking","position":"` +
		string(position) + `","datacontenttype":"application/json","data":{"html":"<b>","n":1.0}}`
	for _, c := range []struct{ accept, contentType, body string }{
		{"", "application/json", `{"events":[` + event + `],"next":null,"complete":true}`},
		{"*/*", "application/json", `{"events":[` + event + `],"next":null,"complete":true}`},
		{"application/cloudevents-batch+json;q=0", "application/json", `{"events":[` + event + `],"next":null,"complete":true}`},
		{"application/cloudevents-batch+json", "application/cloudevents-batch+json", `[` + event + `]`},
		{"text/html, Application/CloudEvents-Batch+JSON; q=0.5", "application/cloudevents-batch+json", `[` + event + `]`},
	} {
		a := get(t, h, historyPath, "Accept: "+c.accept)
		if a.header.Get("Content-Type") != c.contentType || a.body != c.body+"\n" {
			t.Errorf("Accept %q: got %q %s, want %q %s", c.accept, a.header.Get("Content-Type"), a.body, c.contentType, c.body)
		}
	}
	a := get(t, h, historyPath+"?eventType=nowhere", "Accept: application/cloudevents-batch+json")
	if a.body != "[]\n" {
		t.Errorf("an empty batch is %s", a.body)
	}
	again := post(t, h, get(t, h, historyPath, "Accept: application/cloudevents-batch+json").body, isBatch)
	if again.status != http.StatusAccepted {
		t.Errorf("the batch can't be published again: %d %s", again.status, again.body)
	}
}

// pages reads the history page by page and returns where each event stands, and how many pages were not complete.
func pages(t *testing.T, h http.Handler, query string) (places []string, incomplete int) {
	t.Helper()
	for after := ""; ; {
		a := get(t, h, historyPath+"?"+query+"&after="+after)
		var got page
		if a.into(t, &got); a.status != http.StatusOK {
			t.Fatalf("got %d %s", a.status, a.body)
		}
		for _, e := range got.Events {
			places = append(places, e.Position+"@"+e.Stream)
		}
		if !got.Complete {
			incomplete++
		}
		if got.Next == nil {
			return places, incomplete
		}
		if *got.Next == after || len(places) > 1000 {
			t.Fatalf("the pages don't end: %q", places)
		}
		after = *got.Next
	}
}

func TestPagesGiveEachEventOnce(t *testing.T) {
	t.Parallel()
	namespace := redistest.Namespace(t)
	client := redistest.Shared(t).Client(t)
	var want []string
	for _, id := range []string{"1000-0", "1000-1", "1001-0", "1001-1", "1001-2", "1005-0"} {
		for _, stream := range []string{"a", "b", "c", "d"} { // all of the same IDs
			if err := client.XAdd(t.Context(), &redis.XAddArgs{Stream: namespace + ":" + stream, ID: id, Values: []string{"k", "v"}}).Err(); err != nil {
				t.Fatal(err)
			}
			want = append(want, id+"@"+stream)
		}
	}
	newest := slices.Clone(want)
	slices.Reverse(newest)
	for _, redisOnly := range []bool{false, true} {
		b := openBus(t, pipeline.Config{Namespace: namespace, Redis: redistest.Shared(t).Options(), RedisOnly: redisOnly})
		h := newAPI(b)
		for _, limit := range []int{1, 2, 3, 5, 7, 24, 25, 1000} {
			query := fmt.Sprintf("eventType=a&eventType=b.**&eventType=b&eventType=c&eventType=d&limit=%d&order=", limit)
			for order, want := range map[string][]string{"asc": want, "desc": newest} {
				got, _ := pages(t, h, query+order)
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s %d by %d (-want +got):\n%s", order, len(want), limit, diff)
				}
			}
		}
	}
}

// hasty is a bus that looks at less than it is asked to.
type hasty struct {
	*pipeline.Bus
	t    *testing.T
	scan int
}

func (b hasty) History(ctx context.Context, q pipeline.Query) iter.Seq2[pipeline.Record, error] {
	if q.Scan != 100_000 {
		b.t.Errorf("the scan limit is %d, want 100,000", q.Scan)
	}
	q.Scan = b.scan
	return b.Bus.History(ctx, q)
}

func TestScanLimit(t *testing.T) {
	t.Parallel()
	b := openBus(t, pipeline.Config{})
	var want []string
	for i := range 40 {
		e := pipeline.Event{Type: "often.seen"}
		if i%7 == 3 {
			e.Type = "rarely.seen"
		}
		r, err := b.Publish(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		if e.Stream() == "rarely" {
			want = append(want, string(r.Outcomes[0].Position)+"@rarely")
		}
	}
	newest := slices.Clone(want)
	slices.Reverse(newest)
	for _, scan := range []int{3, 4, 39, 40, 41} {
		h := newAPI(hasty{b, t, scan})
		for _, limit := range []int{1, 2, 100} {
			for order, want := range map[string][]string{"asc": want, "desc": newest} {
				got, incomplete := pages(t, h, fmt.Sprintf("eventType=*.seen&userId=&limit=%d&order=%s&eventType=rarely.seen", limit, order))
				got = slices.DeleteFunc(got, func(s string) bool { return strings.HasSuffix(s, "@often") })
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("scan %d, %s by %d (-want +got):\n%s", scan, order, limit, diff)
				}
				if scan > 40 && incomplete > 0 || scan < 40 && limit == 100 && incomplete == 0 {
					t.Errorf("scan %d, %s by %d: %d pages were not complete", scan, order, limit, incomplete)
				}
			}
		}
	}
	// A filter that matches nothing ends all the same, with pages that hold nothing but say where to go on.
	got, incomplete := pages(t, newAPI(hasty{b, t, 3}), "subject=nobody")
	if len(got) > 0 || incomplete != 13 {
		t.Errorf("got %q with %d pages that are not complete, want none and 13", got, incomplete)
	}
}
