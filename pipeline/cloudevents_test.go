package pipeline

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

func TestCloudEventRoundTrip(t *testing.T) {
	t.Parallel()
	text := rapid.String()
	headerNames := rapid.OneOf(rapid.StringMatching(`[a-z0-9]{1,8}`), text, rapid.SampledFrom([]string{
		"id", "type", "time", "data", "dataschema", "stream", "correlationid", "millraceheaders", "partitionkey", HeaderTraceParent, HeaderTraceState}))
	rapid.Check(t, func(t *rapid.T) {
		want := Event{
			ID: rapid.StringN(1, 20, -1).Draw(t, "id"), Type: "booking.created", Source: rapid.StringN(1, 20, -1).Draw(t, "source"), Subject: text.Draw(t, "subject"),
			Time:          time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "s"), rapid.Int64Range(0, 999_999_999).Draw(t, "ns")).UTC(),
			CorrelationID: text.Draw(t, "correlation"), CausationID: text.Draw(t, "causation"), OrganizationID: text.Draw(t, "organization"), UserID: text.Draw(t, "user"),
			Header:      rapid.MapOf(headerNames, text).Draw(t, "header"),
			ContentType: rapid.SampledFrom([]string{"", ContentTypeJSON, "text/json; charset=utf-8", "application/x+json", "text/plain", "no type"}).Draw(t, "content type"),
			Data:        rapid.SliceOfN(rapid.Byte(), 1, 50).Draw(t, "data"),
		}
		if rapid.Bool().Draw(t, "json") {
			want.Data, _ = json.Marshal(rapid.MapOf(text, text).Draw(t, "payload"))
		}
		encoded, err := want.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		var got Event
		if err := json.Unmarshal(encoded, &got); err != nil {
			t.Fatalf("%s: %v", encoded, err)
		}
		var compact bytes.Buffer
		if want.ContentType != "text/plain" && want.ContentType != "no type" && json.Compact(&compact, want.Data) == nil {
			want.Data = compact.Bytes() // JSON loses its white space, as MarshalJSON says
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("round trip of %s (-want +got):\n%s", encoded, diff)
		}
	})
}

func TestCloudEventIsWhatTheSpecificationSays(t *testing.T) {
	t.Parallel()
	r := Record{Stream: "booking", Position: "5-0", Event: Event{
		ID: "1", Type: "booking.created", Source: "shop", Time: time.Unix(0, 1).UTC(), CorrelationID: "c", Header: map[string]string{"traceparent": "tp", "X-A": "b"},
		ContentType: ContentTypeJSON, Data: []byte(`{"html": "<b>", "big": 12345678901234567890.10}`)}}
	got, err := r.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	want := `{"specversion":"1.0","id":"1","source":"shop","type":"booking.created","time":"1970-01-01T00:00:00.000000001Z","correlationid":"c",` +
		`"traceparent":"tp","millraceheaders":"{\"X-A\":\"b\"}","stream":"booking","position":"5-0","datacontenttype":"application/json","data":{"html":"<b>","big":12345678901234567890.10}}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCloudEventRefusesWhatIsNone(t *testing.T) {
	t.Parallel()
	for text, names := range map[string]string{
		``:                                   "object",
		`[]`:                                 "object",
		`{`:                                  "EOF",
		`{"id":"1","source":"s","type":"t"}`: "specversion",
		`{"specversion":"1.0","source":"s","type":"t"}`:                                                    "id is missing",
		`{"specversion":"1.0","id":"1","source":"s","type":"t","Type":"u"}`:                                "",
		`{"specversion":"1.0","id":"1","id":"2","source":"s","type":"t"}`:                                  "twice",
		`{"specversion":"1.0","id":"1","source":"s","type":"t","x":{}}`:                                    "attribute x",
		`{"specversion":"1.0","id":"1","source":"s","type":"t","time":"yesterday"}`:                        "attribute time",
		`{"specversion":"1.0","id":"1","source":"s","type":"t","data":1,"data_base64":"YQ=="}`:             "exclude",
		`{"specversion":"1.0","id":"1","source":"s","type":"t","data_base64":"!"}`:                         "data_base64",
		`{"specversion":"1.0","id":"1","source":"s","type":"t","millraceheaders":"no object"}`:             "millraceheaders",
		`{"specversion":"1.0","id":"1","source":"s","type":"t","millraceheaders":"null"}`:                  "millraceheaders",
		`{"specversion":"1.0","id":"1","source":"s","type":"t","millraceheaders":"{\"A\":1}"}`:             "want a string",
		`{"specversion":"1.0","id":"1","source":"s","type":"t","x":"1","millraceheaders":"{\"x\":\"2\"}"}`: "attribute x",
		`{"specversion":"1.0","id":"1","source":"s","type":"t","data_base64":[97]}`:                        "data_base64",
		`{"specversion":"1.0","id":"1","source":"s","type":"t","time":"9999-12-31T23:00:00-02:00"}`:        "attribute time",
		`{"specversion":"1.0","id":1,"source":"s","type":"t"}`:                                             "attribute id",
		`{"specversion":"1.0","id":null,"source":"s","type":"t"}`:                                          "id is missing",
		`{"specversion":"1.0","id":"1","source":"s","type":"t"}}`:                                          "follows",
		`{"specversion":"1.0","id":"1","source":"s","type":"t"}{}`:                                         "follows",
	} {
		var e Event
		err := e.UnmarshalJSON([]byte(text))
		if names == "" {
			if err != nil || e.Header["Type"] != "u" {
				t.Errorf("%s: %v, header %v; names are matched exactly, so Type is an extension", text, err, e.Header)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), names) {
			t.Errorf("%s: error %v, want one that names %q", text, err, names)
		}
	}
}

func TestCloudEventReadsWhatOthersWrite(t *testing.T) {
	t.Parallel()
	const start = `{"specversion":"1.0","id":"1","source":"s","type":"t"`
	for text, want := range map[string]Event{
		`,"time":"2026-11-24T10:00:00+02:00"}`:                 {Time: time.Date(2026, 11, 24, 8, 0, 0, 0, time.UTC)},
		`,"n":5,"b":true,"s":"x","unset":null,"subject":null}`: {Header: map[string]string{"n": "5", "b": "true", "s": "x"}},
		`,"dataschema":"urn:x","partitionkey":"p"}`:            {Header: map[string]string{"dataschema": "urn:x", "partitionkey": "p"}},
		`,"data":"text"}`: {Data: []byte(`"text"`)},
		`,"data":"text","datacontenttype":"text/plain"}`: {Data: []byte(`text`), ContentType: "text/plain"},
		`,"data":"text","datacontenttype":"text/json"}`:  {Data: []byte(`"text"`), ContentType: "text/json"},
		`,"data": { "a" : 1e400 } ,"data_base64":null}`:  {Data: []byte(`{ "a" : 1e400 }`)},
		`,"data":null}`: {Data: []byte(`null`)},
		`,"data_base64":"AAE=","datacontenttype":"image/png"}`:          {Data: []byte{0, 1}, ContentType: "image/png"},
		`,"stream":"booking","position":"5-0"}`:                         {},
		`,"millraceheaders":"{\"X-A\":\"b\",\"id\":\"other\"}"}` + "\n": {Header: map[string]string{"X-A": "b", "id": "other"}},
	} {
		want.ID, want.Source, want.Type = "1", "s", "t"
		if want.Header == nil {
			want.Header = map[string]string{}
		}
		got := Event{Subject: "of before", Header: map[string]string{"of": "before"}}
		if err := got.UnmarshalJSON([]byte(start + text)); err != nil {
			t.Errorf("%s: %v", text, err)
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
}

func TestCloudEventOutsideOfRFC3339IsNotWritten(t *testing.T) {
	t.Parallel()
	e := Event{ID: "1", Type: "t.u", Source: "s", Time: time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)}
	if text, err := e.MarshalJSON(); err == nil || !strings.Contains(err.Error(), "attribute time") {
		t.Errorf("%s, error %v, want one that names the attribute time", text, err)
	}
}

// Whatever can be read can be written, and read again as the same event.
func FuzzCloudEvent(f *testing.F) {
	f.Add([]byte(`{"specversion":"1.0","id":"1","source":"s","type":"t","data":{"a":1},"x":true}`))
	f.Add([]byte(`{"specversion":"1.0","id":"1","source":"s","type":"t","datacontenttype":"text/plain","data":"x","time":"2026-11-24T10:00:00.5+02:00"}`))
	f.Add([]byte(`{"specversion":"1.0","id":"1","source":"s","type":"t","data_base64":"AAE=","millraceheaders":"{\"X\":\"y\"}","X":null}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var want Event
		if err := want.UnmarshalJSON(text); err != nil {
			return
		}
		encoded, err := want.MarshalJSON()
		if err != nil {
			t.Fatalf("write what was read: %v", err)
		}
		var got Event
		if err := got.UnmarshalJSON(encoded); err != nil {
			t.Fatalf("read %s again: %v", encoded, err)
		}
		var compact bytes.Buffer
		if isJSON(want.ContentType) && json.Compact(&compact, want.Data) == nil {
			want.Data = compact.Bytes()
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("%s is another event (-want +got):\n%s", encoded, diff)
		}
	})
}
