package httpapi_test

import (
	"bytes"
	"context"
	"iter"
	"net/http"
	"strings"
	"testing"
	"unicode"

	"github.com/rishi-platform/millrace/pipeline"
)

// noting is a bus that notes what it was given, whole requests that were taken only.
type noting struct {
	*pipeline.Bus
	events []pipeline.Event
}

func (n *noting) PublishWith(ctx context.Context, o pipeline.PublishOptions, events ...pipeline.Event) (pipeline.Receipt, error) {
	r, err := n.Bus.PublishWith(ctx, o, events...)
	if err == nil {
		n.events = events
	}
	return r, err
}

func (n *noting) History(ctx context.Context, q pipeline.Query) iter.Seq2[pipeline.Record, error] {
	return n.Bus.History(ctx, q)
}

// FuzzPublish sends anything as a body and as a header: nothing panics, what is taken is right, and what is refused is not repeated.
// Wherever the input has zz, a word is put that no text of ours has.
func FuzzPublish(f *testing.F) {
	const word = "q7Zj2kXw"
	bodies := []string{
		``, `null`, `[]`, `{}`, `"zz"`, `{"type":"a"}`, `{"type":"zz"}`, `{"type":"a","zz":1}`, `{"type":"a","type":"zz"}`, `{"type":"system.zz"}`,
		`{"type":"a","payload":{"zz":[1,2.50,null]},"metadata":{"zz":"zz"},"options":{"localOnly":true}}`, `{"type":"a","metadata":{"zz zz":"1","millrace_zz":"1"}}`,
		`{"type":"a","options":{"zz":1,"waitReplicas":-1}}`, `{"type":"a","id":"zz zz","timestamp":"zz","correlationId":"é"}`, `[{"type":"a"},{"type":"Zzz"},5,null]`,
		`{"specversion":"1.0","id":"1","source":"s","type":"a","data":{"zz":1}}`, `{"specversion":"zz","id":1,"source":null,"type":"zz!","time":"zz","data_base64":"zz"}`,
		`[{"specversion":"1.0","id":"1","source":"s","type":"a","zz":{},"millraceheaders":"{\"zz\":\"1\"}"}]`, `{"type":"a"} zz`, `{"type":zz}`, "{\"type\":\"\xffzz\"}", `[[[[`,
		`{"specversion":"1.0","id":"1","source":"s","type":"a","time":"9999-12-31T23:59:59-23:00","millraceheaders":"{\"type\":\"zz\"}"}`,
	}
	for _, body := range bodies {
		for form := range byte(4) {
			f.Add([]byte(body), "zz%20%zz", form)
		}
	}
	f.Add([]byte("zz"), `"a\"%C3%A9`, byte(3))
	bus := &noting{Bus: openBus(f, pipeline.Config{LocalMaxLen: 100})}
	h := newAPI(bus)
	f.Fuzz(func(t *testing.T, body []byte, header string, form byte) {
		body = bytes.ReplaceAll(body, []byte("zz"), []byte(word))
		header = strings.ReplaceAll(header, "zz", word)
		if strings.ContainsFunc(header, unicode.IsControl) {
			return // no server would let it through
		}
		headers := [][]string{{isJSON}, {isCloudEvent}, {isBatch}, {"ce-specversion: 1.0", "ce-id: 1", "ce-source: s", "ce-type: " + header, "ce-subject: " + header, isJSON}}[form%4]
		bus.events = nil
		before := bus.Health(t.Context()).Published.Volatile
		a := serve(t, h, request(http.MethodPost, publishPath, bytes.NewReader(body), headers...))
		switch a.status {
		case http.StatusAccepted:
			for _, e := range bus.events {
				if err := pipeline.CheckType(e.Type); err != nil || e.Stream() == pipeline.SystemStream {
					t.Errorf("an event of type %q was taken", e.Type)
				}
			}
			if len(bus.events) == 0 || len(bus.events) > 100 {
				t.Errorf("%d events were taken", len(bus.events))
			}
		case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
			if strings.Contains(strings.ToLower(a.body), strings.ToLower(word[:6])) {
				t.Errorf("the problem repeats what was sent: %s", a.body)
			}
			if bus.Health(t.Context()).Published.Volatile != before {
				t.Error("something was stored")
			}
		default:
			t.Errorf("got %d %s", a.status, a.body)
		}
	})
}
