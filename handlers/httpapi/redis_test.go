package httpapi_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rishi-platform/millrace/internal/redistest"
	"github.com/rishi-platform/millrace/pipeline"
)

// onRedis is the API of a bus on the shared server, and the namespace that it has there.
func onRedis(t *testing.T) (http.Handler, string) {
	t.Helper()
	namespace := redistest.Namespace(t)
	return newAPI(openBus(t, pipeline.Config{Namespace: namespace, Redis: redistest.Shared(t).Options()})), namespace
}

// health is what is told of the health of a server.
type health struct {
	Status, Mode, State, Service string
	Redis                        struct {
		Configured, Connected bool
		LatencyMs             *float64
	}
	Streams []struct {
		Name   string
		Length int64
	}
	Problems []struct{ Code string }
}

func TestPublishStores(t *testing.T) {
	t.Parallel()
	h, namespace := onRedis(t)
	a := post(t, h, `{"type":"booking.created","payload":{"id" : 1}}`, isJSON)
	var got published
	a.into(t, &got)
	if a.status != http.StatusCreated || len(got.Events) != 1 || got.Events[0].Durability != "stored" || got.Events[0].Position == nil {
		t.Fatalf("got %d %s", a.status, a.body)
	}
	position := *got.Events[0].Position
	entries, err := redistest.Shared(t).Client(t).XRange(t.Context(), namespace+":booking", position, position).Result()
	if err != nil || len(entries) != 1 || entries[0].Values["payload"] != `{"id" : 1}` {
		t.Errorf("in Redis there is %v, %v", entries, err)
	}
	var told page
	get(t, h, historyPath+"?eventType=booking.created&source=redis").into(t, &told)
	if len(told.Events) != 1 || told.Events[0].ID != got.Events[0].ID || told.Events[0].Position != position || told.Events[0].Stream != "booking" {
		t.Errorf("the history is %+v", told)
	}
}

func TestLocalOnlyDoesNotReachRedis(t *testing.T) {
	t.Parallel()
	h, namespace := onRedis(t)
	a := post(t, h, `{"type":"booking.created","options":{"localOnly":true}}`, isJSON)
	if a.status != http.StatusAccepted || !strings.Contains(a.body, `"durability":"volatile"`) {
		t.Errorf("got %d %s", a.status, a.body)
	}
	if n := redistest.Shared(t).Client(t).Exists(t.Context(), namespace+":booking").Val(); n > 0 {
		t.Error("it reached Redis")
	}
	if a := post(t, h, `{"type":"booking.created","options":{"redisOnly":true}}`, isJSON); a.status != http.StatusCreated {
		t.Errorf("got %d %s", a.status, a.body)
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	h, _ := onRedis(t)
	post(t, h, `[{"type":"booking.created"},{"type":"booking.paid"}]`, isJSON)
	a := get(t, h, healthPath)
	var got health
	if a.into(t, &got); a.status != http.StatusOK || a.header.Get("Content-Type") != "application/json" {
		t.Fatalf("got %d %s", a.status, a.body)
	}
	if got.Status != "healthy" || got.Mode != "hybrid" || got.State != "durable" || got.Service != "millrace" || !got.Redis.Connected || got.Redis.LatencyMs == nil ||
		len(got.Streams) != 1 || got.Streams[0].Name != "booking" || got.Streams[0].Length != 2 {
		t.Errorf("got %s", a.body)
	}
}

func TestHealthInMemory(t *testing.T) {
	t.Parallel()
	h, _ := inMemory(t)
	a := get(t, h, healthPath)
	var got health
	a.into(t, &got)
	if a.status != http.StatusOK || got.Status != "healthy" || got.Mode != "local-only" || got.State != "volatile" || got.Redis.Configured || got.Redis.LatencyMs != nil {
		t.Errorf("got %d %s", a.status, a.body)
	}
	for _, unknown := range []string{`"spool":null`, `"latencyMs":null`, `"since":null`, `"streams":[]`, `"problems":[]`} {
		if !strings.Contains(a.body, unknown) {
			t.Errorf("%s is missing: %s", unknown, a.body)
		}
	}
}

func TestKeyOfAnotherType(t *testing.T) {
	t.Parallel()
	h, namespace := onRedis(t)
	if err := redistest.Shared(t).Client(t).Set(t.Context(), namespace+":broken", "text", 0).Err(); err != nil {
		t.Fatal(err)
	}
	a := post(t, h, `{"type":"broken.one"}`, isJSON)
	a.refuses(t, 500, "redis-refused")
	if detail := a.problem(t).Detail; !strings.Contains(detail, namespace+":broken") || !strings.Contains(detail, "WRONGTYPE") {
		t.Errorf("key and reason are not named: %s", detail)
	}
	get(t, h, historyPath+"?eventType=broken.one").refuses(t, 500, "redis-refused")

	// A list of which one fails: the others are stored.
	a = post(t, h, `[{"id":"1","type":"booking.created"},{"id":"2","type":"broken.one"},{"id":"3","type":"booking.paid"}]`, isJSON)
	var got published
	if a.into(t, &got); a.status != http.StatusMultiStatus || len(got.Events) != 3 {
		t.Fatalf("got %d %s", a.status, a.body)
	}
	for i, status := range []int{201, 500, 201} {
		e := got.Events[i]
		failed := status == 500
		if e.Status != status || (e.Problem != nil) != failed || (e.Position == nil) != failed || (e.Durability == "refused") != failed {
			t.Errorf("event %d: got %+v, want status %d", i, e, status)
		}
	}
	if p := got.Events[1].Problem; p == nil || p.Type != "urn:millrace:problem:redis-refused" || p.Status != 500 || !strings.Contains(p.Detail, namespace+":broken") {
		t.Errorf("got %+v", p)
	}
	var told page
	get(t, h, historyPath+"?eventType=booking.*&order=asc").into(t, &told)
	if len(told.Events) != 2 || told.Events[0].ID != "1" || told.Events[1].ID != "3" {
		t.Errorf("the history is %+v", told)
	}
}

func TestOutOfMemory(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	h := newAPI(openBus(t, pipeline.Config{Namespace: "ns", Redis: server.Options()}))
	client := server.Client(t)
	limit := func(bytes string) {
		if err := client.ConfigSet(t.Context(), "maxmemory", bytes).Err(); err != nil {
			t.Fatal(err)
		}
	}
	limit("1")
	a := post(t, h, `{"type":"booking.created"}`, isJSON)
	a.refuses(t, 429, "back-pressure")
	if detail := a.problem(t).Detail; !strings.Contains(detail, "OOM") || !strings.Contains(detail, "maxmemory") {
		t.Errorf("got %s", detail)
	}
	limit("0")
	if a := post(t, h, `{"type":"booking.paid"}`, isJSON); a.status != http.StatusCreated {
		t.Errorf("got %d %s", a.status, a.body)
	}
	if n := client.XLen(t.Context(), "ns:booking").Val(); n != 1 {
		t.Errorf("%d events are stored, want 1", n)
	}
}

func TestRedisIsAway(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	server.Stop(t)
	states := make(chan pipeline.State, 10)
	h := newAPI(openBus(t, pipeline.Config{Namespace: "ns", Redis: server.Options(), Hooks: pipeline.Hooks{
		State: func(_, to pipeline.State, _ error) { states <- to },
	}}))
	becomes := func(want pipeline.State) {
		select {
		case got := <-states:
			if got != want {
				t.Fatalf("the state is %s, want %s", got, want)
			}
		case <-time.After(20 * time.Second): // only a broken machine takes so long
			t.Fatalf("the state never became %s", want)
		}
	}
	isAway := func() {
		post(t, h, `{"type":"booking.lost"}`, isJSON).refuses(t, 503, "redis-unavailable")
		post(t, h, `[{"type":"booking.lost"},{"type":"invoice.lost"}]`, isJSON).refuses(t, 503, "redis-unavailable")
		for _, query := range []string{"", "?eventType=booking.*", "?source=redis"} {
			get(t, h, historyPath+query).refuses(t, 503, "redis-unavailable")
		}
		get(t, h, "/readyz").refuses(t, 503, "redis-unavailable")
		if a := get(t, h, "/livez"); a.status != http.StatusOK {
			t.Errorf("livez: got %d", a.status)
		}
		a := get(t, h, healthPath)
		var got health
		a.into(t, &got)
		if a.status != http.StatusServiceUnavailable || got.Status != "unhealthy" || got.State != "unavailable" || got.Redis.Connected || got.Redis.LatencyMs != nil {
			t.Errorf("health: got %d %s", a.status, a.body)
		}
	}
	becomes(pipeline.StateUnavailable)
	isAway()
	if a := get(t, h, historyPath+"?source=local"); a.status != http.StatusOK {
		t.Errorf("what this process keeps: got %d %s", a.status, a.body)
	}

	server.StartAgain(t)
	becomes(pipeline.StateDurable)
	for _, path := range []string{"/readyz", healthPath} {
		if a := get(t, h, path); a.status != http.StatusOK {
			t.Errorf("%s: got %d %s", path, a.status, a.body)
		}
	}
	if a := post(t, h, `{"type":"booking.created"}`, isJSON); a.status != http.StatusCreated {
		t.Errorf("got %d %s", a.status, a.body)
	}
	var told page
	get(t, h, historyPath+"?eventType=booking.*").into(t, &told)
	if len(told.Events) != 1 || told.Events[0].Type != "booking.created" {
		t.Errorf("what was refused is there: %+v", told)
	}

	server.Stop(t)
	a := get(t, h, healthPath) // which notices it, and makes the bus look closer
	var got health
	if a.into(t, &got); a.status != http.StatusOK || got.Status != "degraded" || got.Redis.Connected {
		t.Errorf("health of an outage that has just begun: got %d %s", a.status, a.body)
	}
	becomes(pipeline.StateUnavailable)
	isAway()
}
