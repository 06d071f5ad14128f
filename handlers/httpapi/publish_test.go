package httpapi_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/rishi-platform/millrace/handlers/httpapi"
	"github.com/rishi-platform/millrace/pipeline"
)

// plain are the required attributes of a CloudEvent in binary mode.
var plain = []string{"ce-specversion: 1.0", "ce-id: 1", "ce-source: shop", "ce-type: booking.created"}

func with(lines []string, more ...string) []string {
	return append(lines[:len(lines):len(lines)], more...)
}

func TestPublishRefuses(t *testing.T) {
	t.Parallel()
	const one = `{"type":"booking.created"}`
	cases := []struct {
		name    string
		body    string
		headers []string
		status  int
		code    string
		faults  []string
	}{
		{"empty", "", []string{isJSON}, 400, "bad-json", nil},
		{"white space", " \n\t ", []string{isJSON}, 400, "bad-json", nil},
		{"not JSON", `{"type":s3cr3t}`, []string{isJSON}, 400, "bad-json", nil},
		{"cut off", `{"type":"s3cr3t`, []string{isJSON}, 400, "bad-json", nil},
		{"trailing data", one + ` "s3cr3t"`, []string{isJSON}, 400, "bad-json", nil},
		{"two events", one + one, []string{isJSON}, 400, "bad-json", nil},
		{"byte order mark", "\ufeff" + one, []string{isJSON}, 400, "bad-json", nil},
		{"not UTF-8", "{\"type\":\"a\",\"payload\":\"\xff s3cr3t\"}", []string{isJSON}, 400, "bad-json", nil},
		{"nested too deep", `{"type":"a","payload":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}`, []string{isJSON}, 400, "bad-json", nil},
		{"CloudEvent that is a list", `[{"s3cr3t":1}]`, []string{isCloudEvent}, 400, "bad-json", nil},
		{"batch that is no list", `{"s3cr3t":1}`, []string{isBatch}, 400, "bad-json", nil},
		{"empty CloudEvent", "", []string{isCloudEvent}, 400, "bad-json", nil},

		{"no content type", one, nil, 415, "unsupported-media-type", nil},
		{"text", one, []string{"Content-Type: text/plain"}, 415, "unsupported-media-type", nil},
		{"form", one, []string{"Content-Type: application/x-www-form-urlencoded"}, 415, "unsupported-media-type", nil},
		{"content type that is none", one, []string{"Content-Type: application/json; s3cr3t"}, 415, "unsupported-media-type", nil},
		{"other format of CloudEvents", one, with(plain, "Content-Type: application/cloudevents+avro"), 415, "unsupported-media-type", nil},
		{"compressed", one, []string{isJSON, "Content-Encoding: gzip"}, 415, "unsupported-media-type", nil},

		{"no object", `"s3cr3t"`, []string{isJSON}, 422, "invalid", []string{"body"}},
		{"no type", `{"payload":"s3cr3t"}`, []string{isJSON}, 422, "invalid", []string{"body.type"}},
		{"type null", `{"type":null}`, []string{isJSON}, 422, "invalid", []string{"body.type"}},
		{"type empty", `{"type":""}`, []string{isJSON}, 422, "invalid", []string{"body.type"}},
		{"type syntax", `{"type":"Booking s3cr3t"}`, []string{isJSON}, 422, "invalid", []string{"body.type"}},
		{"type of nine segments", `{"type":"a.b.c.d.e.f.g.h.i"}`, []string{isJSON}, 422, "invalid", []string{"body.type"}},
		{"type of the stream system", `{"type":"system.s3cr3t"}`, []string{isJSON}, 422, "invalid", []string{"body.type"}},
		{"type of another kind", `{"type":["s3cr3t"]}`, []string{isJSON}, 422, "invalid", []string{"body.type"}},
		{"name in another case", `{"Type":"s3cr3t"}`, []string{isJSON}, 422, "invalid", []string{"body", "body.type"}},
		{"unknown field", `{"type":"a","s3cr3t":1,"s3cr3t2":null}`, []string{isJSON}, 422, "invalid", []string{"body"}},
		{"field twice", `{"type":"a","type":"s3cr3t"}`, []string{isJSON}, 422, "invalid", []string{"body"}},
		{"ID", `{"type":"a","id":"s3cr3t ID"}`, []string{isJSON}, 422, "invalid", []string{"body.id"}},
		{"ID too long", `{"type":"a","id":"` + strings.Repeat("s3cr3t", 50) + `"}`, []string{isJSON}, 422, "invalid", []string{"body.id"}},
		{"correlation ID", `{"type":"a","correlationId":"s3cr3t\n"}`, []string{isJSON}, 422, "invalid", []string{"body.correlationId"}},
		{"timestamp", `{"type":"a","timestamp":"s3cr3t"}`, []string{isJSON}, 422, "invalid", []string{"body.timestamp"}},
		{"timestamp beyond RFC 3339", `{"type":"a","timestamp":"9999-12-31T23:59:59-23:00"}`, []string{isJSON}, 422, "invalid", []string{"body.timestamp"}},
		{"metadata of numbers", `{"type":"a","metadata":{"s3cr3t":1}}`, []string{isJSON}, 422, "invalid", []string{"body.metadata"}},
		{"metadata null", `{"type":"a","metadata":{"s3cr3t":null}}`, []string{isJSON}, 422, "invalid", []string{"body.metadata"}},
		{"metadata twice", `{"type":"a","metadata":{"s3cr3t":"1","s3cr3t":"2"}}`, []string{isJSON}, 422, "invalid", []string{"body.metadata"}},
		{"metadata reserved", `{"type":"a","metadata":{"correlation_id":"s3cr3t"}}`, []string{isJSON}, 422, "invalid", []string{"body.metadata"}},
		{"metadata reserved prefix", `{"type":"a","metadata":{"millrace_s3cr3t":"1","_watermill_s3cr3t":"1"}}`, []string{isJSON}, 422, "invalid", []string{"body.metadata"}},
		{"metadata name", `{"type":"a","metadata":{"s3cr3t name":"1"}}`, []string{isJSON}, 422, "invalid", []string{"body.metadata"}},
		{"options unknown", `{"type":"a","options":{"s3cr3t":true}}`, []string{isJSON}, 422, "invalid", []string{"body.options"}},
		{"options of another kind", `{"type":"a","options":{"localOnly":"s3cr3t"}}`, []string{isJSON}, 422, "invalid", []string{"body.options.localOnly"}},
		{"options that exclude each other", `{"type":"a","options":{"localOnly":true,"redisOnly":true}}`, []string{isJSON}, 422, "invalid", []string{"body.options"}},
		{"waitReplicas", `{"type":"a","options":{"waitReplicas":1}}`, []string{isJSON}, 422, "invalid", []string{"body.options.waitReplicas"}},
		{"waitReplicas in part", `{"type":"a","options":{"waitReplicas":0.5}}`, []string{isJSON}, 422, "invalid", []string{"body.options.waitReplicas"}},
		{"redisOnly without Redis", `{"type":"a","options":{"redisOnly":true}}`, []string{isJSON}, 422, "invalid", []string{"body.options.redisOnly"}},
		{"everything at once", `{"type":"A","id":"s3cr3t ID","timestamp":5,"metadata":[]}`, []string{isJSON}, 422, "invalid", []string{"body.timestamp", "body.metadata"}},

		{"list of none", `[]`, []string{isJSON}, 422, "invalid", []string{"body"}},
		{"batch of none", `[]`, []string{isBatch}, 422, "invalid", []string{"body"}},
		{"list too long", "[" + strings.Repeat(one+",", 100) + one + "]", []string{isJSON}, 422, "invalid", []string{"body"}},
		{"one of a list", `[` + one + `,` + one + `,{"type":"s3cr3t!"}]`, []string{isJSON}, 422, "invalid", []string{"body[2].type"}},
		{"list of one", `[{"type":"s3cr3t!"}]`, []string{isJSON}, 422, "invalid", []string{"body[0].type"}},
		{"several of a list", `["s3cr3t",` + one + `,{"type":"a","s3cr3t":1}]`, []string{isJSON}, 422, "invalid", []string{"body[0]", "body[2]"}},
		{"options that differ", `[` + one + `,{"type":"a","options":{"localOnly":true}}]`, []string{isJSON}, 422, "invalid", []string{"body[1].options"}},

		{"CloudEvent without anything", `{}`, []string{isCloudEvent}, 422, "invalid", []string{"body.specversion", "body.id", "body.source", "body.type"}},
		{"CloudEvent of another version", `{"specversion":"s3cr3t","id":"1","source":"s","type":"a"}`, []string{isCloudEvent}, 422, "invalid", []string{"body.specversion"}},
		{"CloudEvent type", `{"specversion":"1.0","id":"1","source":"s","type":"s3cr3t!"}`, []string{isCloudEvent}, 422, "invalid", []string{"body.type"}},
		{"CloudEvent with wrong attributes", `{"specversion":"1.0","id":1,"source":null,"type":"","time":"s3cr3t","data_base64":"s3cr3t","millraceheaders":"s3cr3t"}`, []string{isCloudEvent}, 422, "invalid",
			[]string{"body.id", "body.source", "body.type", "body.time", "body.data_base64", "body.millraceheaders"}},
		{"CloudEvent with a name that is none", `{"specversion":"1.0","id":"1","source":"s","type":"a","userId":"s3cr3t"}`, []string{isCloudEvent}, 422, "invalid", []string{"body"}},
		{"CloudEvent with an object", `{"specversion":"1.0","id":"1","source":"s","type":"a","s3cr3t":{}}`, []string{isCloudEvent}, 422, "invalid", []string{"body"}},
		{"CloudEvent with a name twice", `{"specversion":"1.0","id":"1","source":"s","type":"a","s3cr3t":"1","s3cr3t":"2"}`, []string{isCloudEvent}, 422, "invalid", []string{"body"}},
		{"CloudEvent with two kinds of data", `{"specversion":"1.0","id":"1","source":"s","type":"a","data":"s3cr3t","data_base64":""}`, []string{isCloudEvent}, 422, "invalid", []string{"body"}},
		{"CloudEvent with a reserved header", `{"specversion":"1.0","id":"1","source":"s","type":"a","millraceheaders":"{\"millrace_s3cr3t\":\"1\"}"}`, []string{isCloudEvent}, 422, "invalid", []string{"body"}},
		{"CloudEvent correlation ID", `{"specversion":"1.0","id":"1","source":"s","type":"a","correlationid":"s3cr3t id"}`, []string{isCloudEvent}, 422, "invalid", []string{"body.correlationid"}},
		{"batch", `[{"specversion":"1.0","id":"1","source":"s","type":"a"},5,{"specversion":"1.0","id":"1","source":"s"}]`, []string{isBatch}, 422, "invalid", []string{"body[1]", "body[2].type"}},

		{"binary without the rest", "s3cr3t", []string{"ce-type: booking.created", "Content-Type: text/plain"}, 422, "invalid", []string{"header.ce-specversion", "header.ce-id", "header.ce-source"}},
		{"binary without type", "s3cr3t", with(plain[:3], "Content-Type: text/plain"), 422, "invalid", []string{"header.ce-type"}},
		{"binary type syntax", "{}", with(plain[:3], "ce-type: Booking s3cr3t", isJSON), 422, "invalid", []string{"header.ce-type"}},
		{"binary header twice", "{}", with(plain, "ce-type: s3cr3t", isJSON), 422, "invalid", []string{"header.ce-type"}},
		{"binary extension twice", "{}", with(plain, "ce-partitionkey: 1", "ce-partitionkey: s3cr3t", isJSON), 422, "invalid", []string{"header.ce-partitionkey"}},
		{"binary bad percent-encoding", "{}", with(plain, "ce-subject: s3cr3t%zz", isJSON), 422, "invalid", []string{"header.ce-subject"}},
		{"binary cut off percent-encoding", "{}", with(plain, "ce-subject: s3cr3t%2", isJSON), 422, "invalid", []string{"header.ce-subject"}},
		{"binary overlong UTF-8", "{}", with(plain, "ce-subject: s3cr3t%C0%A0", isJSON), 422, "invalid", []string{"header.ce-subject"}},
		{"binary open quotes", "{}", with(plain, `ce-subject: "s3cr3t`, isJSON), 422, "invalid", []string{"header.ce-subject"}},
		{"binary time", "{}", with(plain, "ce-time: s3cr3t", isJSON), 422, "invalid", []string{"header.ce-time"}},
		{"binary correlation ID", "{}", with(plain, "ce-correlationid: s3cr3t%20", isJSON), 422, "invalid", []string{"header.ce-correlationid"}},
		{"binary content type as an attribute", "{}", with(plain, "ce-datacontenttype: s3cr3t", isJSON), 422, "invalid", []string{"header.ce-datacontenttype"}},
		{"binary data as an attribute", "{}", with(plain, "ce-data: s3cr3t", isJSON), 422, "invalid", []string{"header.ce-data"}},
		{"binary name that is none", "{}", with(plain, "ce-s3cr3t-name: 1", isJSON), 422, "invalid", []string{"header"}},
		{"binary reserved header", "{}", with(plain, "ce-millraceheaders: %7B%22millrace_s3cr3t%22:%221%22%7D", isJSON), 422, "invalid", []string{"header"}},
		{"binary data that is not the JSON it says", "s3cr3t", with(plain, isJSON), 400, "bad-json", nil},
		{"binary data that is not the JSON it says, either", "s3cr3t", with(plain, "Content-Type: application/vnd.shop+json"), 400, "bad-json", nil},
		{"binary data without content type", "s3cr3t", plain, 415, "unsupported-media-type", nil},
		{"binary data with a content type that is none", "s3cr3t", with(plain, "Content-Type: ;"), 415, "unsupported-media-type", nil},

		{"long idempotency key", one, []string{isJSON, "Idempotency-Key: " + strings.Repeat("s3cr3t", 50)}, 422, "invalid", []string{"header.Idempotency-Key"}},
		{"two idempotency keys", one, []string{isJSON, "Idempotency-Key: s3cr3t", "Idempotency-Key: s3cr3t2"}, 422, "invalid", []string{"header.Idempotency-Key"}},
		{"idempotency key of another script", one, []string{isJSON, "Idempotency-Key: s3cr3t\u00e9"}, 422, "invalid", []string{"header.Idempotency-Key"}},
		{"empty idempotency key", one, []string{isJSON, "Idempotency-Key: "}, 422, "invalid", []string{"header.Idempotency-Key"}},
		{"metadata too large", `{"type":"a","metadata":{"k":"` + strings.Repeat("s3cr3t", 3000) + `"}}`, []string{isJSON}, 413, "too-large", []string{"body.metadata"}},
		{"metadata of a CloudEvent too large", "{}", with(plain, "ce-k: "+strings.Repeat("s3cr3t", 3000), isJSON), 413, "too-large", []string{"header"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h, b := inMemory(t)
			post(t, h, c.body, c.headers...).refuses(t, c.status, c.code, c.faults...)
			if n := len(stored(t, b)); n > 0 {
				t.Errorf("%d events were stored", n)
			}
		})
	}
}

func TestProblemOfManyFaultsIsBounded(t *testing.T) {
	t.Parallel()
	h, _ := inMemory(t)
	wrong := `{"type":"A","id":" ","correlationId":" ","causationId":" ","source":" ","metadata":{"type":"1"}}`
	a := post(t, h, "["+strings.Repeat(wrong+",", 99)+wrong+"]", isJSON)
	if n := len(a.problem(t).Errors); a.status != 422 || n != 100 {
		t.Errorf("got %d with %d faults, want 422 with 100", a.status, n)
	}
	var fields strings.Builder
	for i := range 5_000 {
		fmt.Fprintf(&fields, `,"f%d":1`, i)
	}
	post(t, h, `{"type":"a"`+fields.String()+`}`, isJSON).refuses(t, 422, "invalid", "body")
	query := strings.ReplaceAll(strings.ReplaceAll(fields.String(), `,"`, "&"), `":`, "=")
	get(t, h, historyPath+"?"+query).refuses(t, 422, "invalid", "query")
}

// What the bus says about a type and a year quotes them.
func TestProblemQuotesNothing(t *testing.T) {
	t.Parallel()
	h, _ := inMemory(t)
	a := post(t, h, `{"type":"booking.Paid","timestamp":"9999-12-31T23:59:59-23:00"}`, isJSON)
	if a.refuses(t, 422, "invalid", "body.type", "body.timestamp"); strings.Contains(a.body, "Paid") || strings.Contains(a.body, "10000") {
		t.Errorf("got %s", a.body)
	}
}

func TestPublishKeepsWhatItIsGiven(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 24, 10, 0, 0, 123456789, time.UTC)
	full := pipeline.Event{
		ID: "e-1", Type: "booking.created", Source: "shop", Subject: "booking/1 é", Time: at, CorrelationID: "c-1", CausationID: "cause-1", OrganizationID: "org", UserID: "u",
		Header: map[string]string{"k": "v", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}, ContentType: "application/json", Data: []byte(`{"a": 1.0}`),
	}
	event := func(data, contentType string, header map[string]string) pipeline.Event {
		return pipeline.Event{ID: "1", Type: "booking.created", Source: "shop", ContentType: contentType, Data: []byte(data), Header: header}
	}
	cases := []struct {
		name    string
		body    string
		headers []string
		want    pipeline.Event
	}{
		{"simple", `{"id":"e-1","type":"booking.created","source":"shop","payload": {"a": 1.0} ,"contentType":"application/json","subject":"booking/1 é","userId":"u","organizationId":"org",
			"correlationId":"c-1","causationId":"cause-1","timestamp":"2026-11-24T11:00:00.123456789+01:00",
			"metadata":{"k":"v","traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},"options":{"localOnly":false,"redisOnly":false,"waitReplicas":0}}`,
			[]string{"Content-Type: Application/JSON; charset=utf-8"}, full},
		{"structured", `{"specversion":"1.0","id":"e-1","type":"booking.created","source":"shop","data": {"a": 1.0} ,"datacontenttype":"application/json","subject":"booking/1 é","userid":"u",
			"organizationid":"org","correlationid":"c-1","causationid":"cause-1","time":"2026-11-24T10:00:00.123456789Z","k":"v","traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}`,
			[]string{"Content-Type: application/cloudevents+json; charset=UTF-8", "ce-type: ignored.here"}, full},
		{"binary", `{"a": 1.0}`, []string{"ce-specversion: 1.0", "CE-ID: e-1", "ce-type: booking.created", "ce-source: shop", "ce-subject: booking/1%20%C3%a9", "ce-userid: u", "ce-organizationid: org",
			"ce-correlationid: c-1", "ce-causationid: cause%2D1", "ce-time: 2026-11-24T10:00:00.123456789Z", "ce-k: v", "ce-traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", isJSON}, full},

		{"payload byte for byte", `{"id":"1","source":"shop","type":"booking.created","payload":` + "\n" + `{"b" : 12345678901234567890.10, "a":"<\u00e9>", "a":[ ]}` + "\n" + `}`, []string{isJSON},
			event(`{"b" : 12345678901234567890.10, "a":"<\u00e9>", "a":[ ]}`, "application/json", nil)},
		{"payload null", `{"id":"1","source":"shop","type":"booking.created","payload":null}`, []string{isJSON}, event("null", "application/json", nil)},
		{"payload of a list", `[ {"id":"1","source":"shop","type":"booking.created","payload": [1 ,2] } ]`, []string{isJSON}, event("[1 ,2]", "application/json", nil)},
		{"null is absent", `{"id":"1","source":"shop","type":"booking.created","contentType":null,"subject":null,"userId":null,"organizationId":null,"correlationId":null,"causationId":null,
			"timestamp":null,"metadata":null,"options":null}`, []string{isJSON}, event("", "application/json", nil)},
		{"metadata that is empty", `{"id":"1","source":"shop","type":"booking.created","metadata":{"k":""}}`, []string{isJSON}, event("", "application/json", map[string]string{"k": ""})},
		{"extensions of a CloudEvent", `{"specversion":"1.0","id":"1","source":"shop","type":"booking.created","partitionkey":"p","n":5,"b":true,"none":null}`, []string{isCloudEvent},
			event("", "application/json", map[string]string{"partitionkey": "p", "n": "5", "b": "true"})},
		{"data of a CloudEvent that is not JSON", `{"specversion":"1.0","id":"1","source":"shop","type":"booking.created","datacontenttype":"image/png","data_base64":"/wA="}`, []string{isCloudEvent},
			event("\xff\x00", "image/png", nil)},
		{"binary data that is not JSON", "\xff\x00\n", with(plain, "Content-Type: image/png"), event("\xff\x00\n", "image/png", nil)},
		{"binary data that is a list", `[1, 2]`, with(plain, "Content-Type: application/json; charset=utf-8"), event(`[1, 2]`, "application/json; charset=utf-8", nil)},
		{"binary without data", "", plain, event("", "application/json", nil)},
		{"binary without data, with its content type", "", with(plain, "Content-Type: application/xml"), event("", "application/xml", nil)},
		{"binary with quotes", "", with(plain, `ce-k: "a \"b\" \\ %22"`, "ce-partitionkey: %F0%9F%98%80+%25"), event("", "application/json", map[string]string{"k": `a "b" \ "`, "partitionkey": "😀+%"})},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h, b := inMemory(t)
			a := post(t, h, c.body, c.headers...)
			if a.status != http.StatusAccepted {
				t.Fatalf("got %d %s", a.status, a.body)
			}
			got := only(t, b)
			if c.want.Time.IsZero() { // what the bus stamps
				c.want.Time, c.want.CorrelationID = got.Time, a.header.Get("X-Correlation-ID")
			}
			if diff := cmp.Diff(c.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestPublishAnswersPerEvent(t *testing.T) {
	t.Parallel()
	h, b := inMemory(t)
	a := post(t, h, `[{"type":"booking.created","id":"1"},{"type":"invoice.sent","id":"2"},{"type":"booking.paid","id":"3"}]`, isJSON, "X-Correlation-ID: c-1")
	var got published
	a.into(t, &got)
	if a.status != http.StatusAccepted || a.header.Get("Content-Type") != "application/json" || got.CorrelationID != "c-1" || len(got.Events) != 3 {
		t.Fatalf("got %d %s", a.status, a.body)
	}
	byID := map[string]pipeline.Record{}
	for _, r := range stored(t, b) {
		byID[r.ID] = r
	}
	for i, e := range got.Events {
		want := byID[fmt.Sprint(i+1)]
		if e.ID != want.ID || e.Type != want.Type || e.Stream != want.Stream || e.Position == nil || *e.Position != string(want.Position) {
			t.Errorf("event %d is told as %+v, want %+v", i, e, want)
		}
		if e.Durability != "volatile" || e.Duplicate || e.Status != 0 || e.Problem != nil {
			t.Errorf("event %d is told as %+v, want it volatile", i, e)
		}
	}
}

func TestPublishTakesAsManyEventsAsItSays(t *testing.T) {
	t.Parallel()
	h, b := inMemory(t)
	if a := post(t, h, `[{"type":"a"}`+strings.Repeat(`,{"type":"a"}`, 99)+`]`, isJSON); a.status != http.StatusAccepted {
		t.Errorf("got %d %s", a.status, a.body)
	}
	if n := len(stored(t, b)); n != 100 {
		t.Errorf("%d events are stored, want 100", n)
	}
}

func TestCorrelationID(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, header, body, answered, stored string }{
		{"of the request", "h-1", "", "h-1", "h-1"},
		{"of the body", "", "b-1", "", "b-1"},
		{"of both", "h-1", "b-1", "h-1", "b-1"},
		{"none", "", "", "", ""},
		{"with a space", secret + " id", "", "", ""},
		{"not ASCII", secret + "é", "", "", ""},
		{"too long", strings.Repeat(secret, 30), "", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h, b := inMemory(t)
			body, _ := json.Marshal(map[string]string{"type": "booking.created", "correlationId": c.body})
			a := post(t, h, string(body), isJSON, "X-Correlation-ID: "+c.header)
			answered := a.header.Get("X-Correlation-ID")
			if c.answered != "" && answered != c.answered {
				t.Errorf("answered is %q, want %q", answered, c.answered)
			}
			want := c.stored
			if want == "" {
				want = answered // a new one
			}
			var told published
			a.into(t, &told)
			if got := only(t, b).CorrelationID; got != want || told.CorrelationID != want {
				t.Errorf("stored is %q and told %q, want %q", got, told.CorrelationID, want)
			}
			if strings.Contains(fmt.Sprint(a), secret) {
				t.Errorf("the bad ID is in the answer: %v", a)
			}
		})
	}
}

// counted counts what is read of a body.
type counted struct {
	io.Reader
	n int
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += n
	return n, err
}

func TestBodyLimits(t *testing.T) {
	t.Parallel()
	const unit = 64 << 10 // stands for 1 MiB
	big := func(n int) string { return `{"type":"a","payload":"` + strings.Repeat("x", n) + `"}` }
	list := func(n, count int) string { return "[" + strings.Repeat(big(n)+",", count-1) + big(n) + "]" }
	const attributes = `"specversion":"1.0","id":"1","source":"s","type":"a","data":"`
	for _, c := range []struct {
		name    string
		body    string
		headers []string
		status  int
		read    int // at most so much is read where the length is told
		chunked int // and so much where it is not
	}{
		{"one twice as large", big(2 * unit), []string{isJSON}, 413, 4 << 10, unit + 16<<10},
		{"one larger than a list may be", big(9 * unit), []string{isJSON}, 413, 4 << 10, unit + 16<<10},
		{"one behind white space", strings.Repeat(" ", 5000) + big(2*unit), []string{isJSON}, 413, 8 << 10, unit + 24<<10},
		{"white space alone", strings.Repeat(" ", 9*unit), []string{isJSON}, 413, 9 * unit, 9 * unit},
		{"CloudEvent twice as large", "{" + attributes + strings.Repeat("x", 2*unit) + `"}`, []string{isCloudEvent}, 413, 0, unit + 16<<10},
		{"binary twice as large", strings.Repeat("x", 2*unit), with(plain, "Content-Type: text/plain"), 413, 0, unit + 16<<10},
		{"list of three", list(unit-100, 3), []string{isJSON}, 202, 4 * unit, 4 * unit},
		{"batch of three", "[" + strings.Repeat("{"+attributes+strings.Repeat("x", unit-100)+`"},`, 2) + "{" + attributes + strings.Repeat("x", unit-100) + `"}]`, []string{isBatch}, 202, 4 * unit, 4 * unit},
		{"list of nine", list(unit-100, 9), []string{isJSON}, 413, 4 << 10, 9 * unit},
		{"batch of nine", list(unit-100, 9), []string{isBatch}, 413, 0, 9 * unit},
		{"one whose data is too large for the bus", big(unit), []string{isJSON}, 413, 2 * unit, 2 * unit},
		{"one of a list whose data is too large for the bus", list(unit, 2), []string{isJSON}, 413, 3 * unit, 3 * unit},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := openBus(t, pipeline.Config{MaxDataBytes: unit})
			h := httpapi.New(b, httpapi.Config{MaxEventBody: unit + 4<<10, MaxBatchBody: 8 * unit})
			for _, told := range []bool{true, false} {
				body := &counted{Reader: strings.NewReader(c.body)}
				r := request(http.MethodPost, publishPath, body, c.headers...)
				limit := c.chunked
				r.ContentLength = -1
				if told {
					limit = c.read
					r.ContentLength = int64(len(c.body))
				}
				a := serve(t, h, r)
				if a.status != c.status || c.status == 413 && a.problem(t).Type != "urn:millrace:problem:too-large" {
					t.Errorf("length told %v: got %d %.200s, want %d", told, a.status, a.body, c.status)
				}
				if body.n > limit {
					t.Errorf("length told %v: %d bytes were read, want at most %d", told, body.n, limit)
				}
			}
			if n := len(stored(t, b)); c.status == 413 && n > 0 {
				t.Errorf("%d events were stored", n)
			}
		})
	}
}

func TestDefaultBodyLimits(t *testing.T) {
	t.Parallel()
	h, _ := inMemory(t)
	for _, c := range []struct {
		contentType string
		length      int64
		detail      string
	}{
		{isJSON, 1<<20 + 64<<10 + 1, "the body has more than 1114112 bytes"},
		{isCloudEvent, 1<<20 + 64<<10 + 1, "the body has more than 1114112 bytes"},
		{isBatch, 8<<20 + 1, "the body has more than 8388608 bytes"},
	} {
		r := request(http.MethodPost, publishPath, strings.NewReader("{"), c.contentType)
		r.ContentLength = c.length
		a := serve(t, h, r)
		if a.refuses(t, 413, "too-large"); a.problem(t).Detail != c.detail {
			t.Errorf("%s: got %s", c.contentType, a.body)
		}
	}
}

// Over a real connection a server that does not read on must not make the client miss the answer.
func TestBodyLimitOverAConnection(t *testing.T) {
	t.Parallel()
	h, _ := inMemory(t)
	server := httptest.NewServer(h)
	defer server.Close()
	for _, chunked := range []bool{false, true} {
		var body io.Reader = strings.NewReader(`{"type":"a","payload":"` + strings.Repeat("x", 2<<20) + `"}`)
		if chunked {
			body = io.MultiReader(body) // of which nobody knows the length
		}
		response, err := server.Client().Post(server.URL+publishPath, "application/json", body)
		if err != nil {
			t.Fatalf("chunked %v: %v", chunked, err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("chunked %v: got %s", chunked, response.Status)
		}
	}
}

func TestBodyThatEndsTooSoon(t *testing.T) {
	t.Parallel()
	h, _ := inMemory(t)
	body := io.MultiReader(strings.NewReader(`{"type":"a"}`), errorReader{})
	serve(t, h, request(http.MethodPost, publishPath, body, isJSON)).refuses(t, 400, "bad-json")
}

type errorReader struct{}

func (errorReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestLocalOnlyIsVolatile(t *testing.T) {
	t.Parallel()
	h, _ := inMemory(t)
	a := post(t, h, `{"type":"a","options":{"localOnly":true}}`, isJSON)
	var got published
	a.into(t, &got)
	if a.status != http.StatusAccepted || got.Events[0].Durability != "volatile" {
		t.Errorf("got %d %s", a.status, a.body)
	}
}

func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	h, b := inMemory(t)
	body := `[{"type":"booking.created","payload":{"id":1}},{"type":"invoice.sent"}]`
	var first, again published
	post(t, h, body, isJSON, "Idempotency-Key: k-1").into(t, &first)
	a := post(t, h, body, isJSON, "Idempotency-Key: k-1")
	a.into(t, &again)
	if a.status != http.StatusAccepted || len(again.Events) != 2 {
		t.Fatalf("got %d %s", a.status, a.body)
	}
	for i, e := range again.Events {
		was := first.Events[i]
		if was.Duplicate || !e.Duplicate || e.ID != was.ID || *e.Position != *was.Position || e.Durability != was.Durability {
			t.Errorf("event %d is told as %+v, want it like %+v and a duplicate", i, e, was)
		}
	}
	for _, other := range []string{
		strings.Replace(body, `"id":1`, `"id":2`, 1), // the second event is a repetition: the call as a whole is none
		`{"type":"booking.created","payload":{"id":3}}`,
		`{"type":"order.created"}`, // of a stream where the key is new
	} {
		post(t, h, other, isJSON, "Idempotency-Key: k-1").refuses(t, 422, "idempotency-conflict")
	}
	if n := len(stored(t, b)); n != 2 {
		t.Errorf("%d events are stored, want 2", n)
	}
	post(t, h, body, isJSON, "Idempotency-Key: k-2")
	if n := len(stored(t, b)); n != 4 {
		t.Errorf("%d events are stored, want 4", n)
	}
}

// An event that comes with an ID of the client's own is published once, without a key.
func TestOwnIDIsPublishedOnce(t *testing.T) {
	t.Parallel()
	h, b := inMemory(t)
	for i, want := range []bool{false, true} {
		var got published
		post(t, h, `{"specversion":"1.0","id":"e-1","source":"phone","type":"booking.created"}`, "Content-Type: application/cloudevents+json").into(t, &got)
		if got.Events[0].Duplicate != want {
			t.Errorf("time %d: %+v", i+1, got.Events[0])
		}
	}
	if n := len(stored(t, b)); n != 1 {
		t.Errorf("%d events are stored, want 1", n)
	}
}
