package pipeline

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/redistest"
)

func nested(depth int) string { return strings.Repeat("[", depth) + strings.Repeat("]", depth) }

// JSON that is not UTF-8 or is nested too deep is refused; what stands there already is shown as base64.
func TestP23JSONThatOthersCanNotRead(t *testing.T) {
	t.Parallel()
	cfg := Config{Redis: redistest.Shared(t).Options(), Namespace: redistest.Namespace(t)}
	b := openBus(t, cfg)
	for name, test := range map[string]struct {
		data, contentType string
		refused           bool
	}{
		"not UTF-8":              {"\"\xff\"", "", true},
		"not UTF-8, other JSON":  {"\"\xff\"", "application/vnd.x+json; charset=utf-8", true},
		"not UTF-8, not JSON":    {"\"\xff\"", "text/plain", false},
		"too deep":               {nested(513), "", true},
		"deep":                   {nested(512), "", false},
		"too deep, not JSON":     {nested(513), "text/plain", false},
		"brackets in a string":   {`"` + strings.Repeat("[", 600) + `\"["`, "", false},
		"many, but not deep":     {"[" + strings.Repeat("[],", 600) + "[]]", "", false},
		"no JSON, which may be":  {"{", "", false},
		"a capital content type": {nested(513), "application/JSON", true},
	} {
		_, err := b.Publish(t.Context(), Event{ID: "e", Type: "booking.created", Data: []byte(test.data), ContentType: test.contentType})
		var invalid *ValidationError
		if refused := errors.As(err, &invalid) && invalid.Faults[0].Field == "data"; refused != test.refused || !refused && err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i, data := range []string{"\"\xff\"", nested(513), nested(9000)} {
		values := []string{redisstream.FieldUUID, "e", redisstream.FieldPayload, data}
		id, err := redistest.Shared(t).Client(t).XAdd(t.Context(), &redis.XAddArgs{Stream: cfg.Namespace + ":others", Values: values}).Result()
		if err != nil {
			t.Fatal(err)
		}
		var found []Record
		for _, r := range records(t, b, Query{Streams: []string{"others"}}) {
			if string(r.Position) == id {
				found = append(found, r)
			}
		}
		if len(found) != 1 || string(found[0].Data) != data {
			t.Fatalf("%d: found %d", i, len(found))
		}
		text, err := json.Marshal(found[0])
		if err != nil || !utf8.Valid(text) || !strings.Contains(string(text), `"data_base64":`) || strings.Contains(string(text), `"data":`) {
			t.Errorf("%d: %.200s, %v", i, text, err)
		}
		var again Event
		if err := json.Unmarshal(text, &again); err != nil || cmp.Diff(string(again.Data), data) != "" {
			t.Errorf("%d: read again: %v", i, err)
		}
	}
}

// A message of Watermill says nothing of its content: it is taken, whatever that is.
func TestP23WatermillMessageOfBytes(t *testing.T) {
	t.Parallel()
	b := openBus(t, Config{Redis: redistest.Shared(t).Options(), Namespace: redistest.Namespace(t)})
	if err := b.Publisher().Publish("booking", message.NewMessage("e", []byte{0xff, 0xfe})); err != nil {
		t.Fatal(err)
	}
	found := records(t, b, Query{Streams: []string{"booking"}})
	if len(found) != 1 || string(found[0].Data) != "\xff\xfe" || found[0].ContentType != contentTypeBytes {
		t.Errorf("found %+v", found)
	}
}

// Pages that are read side by side share their room, also while the size of entries is not known.
func TestP23PagesShareTheirRoom(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		share      *pageShare
		most, size int
		want       int
	}{
		"alone":                              {&pageShare{pagers: 1}, 32, 0, 32},
		"alone, large ones":                  {&pageShare{pagers: 1}, 32, 1 << 20, 4},
		"a hundred, nothing known":           {&pageShare{pagers: 100}, 32, 0, 1},
		"a hundred, small ones in the first": {&pageShare{pagers: 100, entries: 10, bytes: 2000}, 32, 0, 32},
		"a hundred, large ones":              {&pageShare{pagers: 100}, 256, 1 << 20, 1},
		"a hundred, small ones":              {&pageShare{pagers: 100}, 256, 1000, 256},
		"none":                               {nil, 256, 1 << 20, 4},
	} {
		if got := test.share.count(test.most, test.size); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}
