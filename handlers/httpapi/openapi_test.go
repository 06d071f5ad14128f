package httpapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// fetch gets a path from an API that nobody is kept from.
func fetch(t *testing.T, path, host string) string {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.Host = host
	w := httptest.NewRecorder()
	newAPI(nil, Config{AllowAnonymous: true, Version: "v1.2.3"}).ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		t.Fatalf("%s: got %d %s", path, w.Code, w.Body)
	}
	return w.Body.String()
}

func TestOpenAPIDescribesEveryRoute(t *testing.T) {
	t.Parallel()
	text := fetch(t, "/openapi.json", "localhost")
	var doc struct {
		OpenAPI string
		Info    struct{ Title, Version string }
		Paths   map[string]map[string]struct {
			OperationID string
			Summary     string
			Parameters  []struct{ Name, In string }
			RequestBody struct{ Content map[string]any }
			Responses   map[string]struct{ Content map[string]any }
		}
	}
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1.") || doc.Info.Title == "" || doc.Info.Version != "v1.2.3" {
		t.Errorf("got %s, %+v", doc.OpenAPI, doc.Info)
	}
	described := 0
	for path, methods := range newAPI(nil, Config{}).routes {
		for method, route := range methods {
			op, ok := doc.Paths[path][strings.ToLower(method)]
			if !ok || op.OperationID == "" || op.Summary == "" || len(op.Responses) == 0 {
				t.Errorf("%s %s is not described: %+v", method, path, op)
			}
			described++
			for _, p := range route.parameters {
				if !slices.ContainsFunc(op.Parameters, func(d struct{ Name, In string }) bool { return d.Name == p.name && d.In == "query" }) {
					t.Errorf("%s %s: parameter %s is not described", method, path, p.name)
				}
			}
		}
	}
	for path, methods := range doc.Paths {
		if described -= len(methods); len(methods) == 0 {
			t.Errorf("%s has no methods", path)
		}
	}
	if described != 0 {
		t.Errorf("%d more operations are described than there are", -described)
	}

	publish := doc.Paths["/api/events/publish"]["post"]
	for _, name := range []string{"ce-specversion", "ce-id", "ce-source", "ce-type", "ce-subject", "ce-time", "ce-correlationid", "ce-traceparent", "X-Correlation-ID"} {
		if !slices.ContainsFunc(publish.Parameters, func(d struct{ Name, In string }) bool { return d.Name == name && d.In == "header" }) {
			t.Errorf("header %s is not described", name)
		}
	}
	for _, contentType := range []string{typeJSON, typeCloudEvent, typeBatch, "*/*"} {
		if publish.RequestBody.Content[contentType] == nil {
			t.Errorf("a body of %s is not described", contentType)
		}
	}
	for _, status := range []string{"400", "403", "413", "415", "422", "429", "500", "503"} {
		if publish.Responses[status].Content[typeProblem] == nil {
			t.Errorf("problem %s is not described", status)
		}
	}
}

// Every reference leads somewhere, and nothing of huma's that is not ours is in the document.
func TestOpenAPIIsWhole(t *testing.T) {
	t.Parallel()
	text := fetch(t, "/openapi.json", "localhost")
	if strings.Contains(text, "$schema") || strings.Contains(text, "http:") || strings.Contains(text, "https:") {
		t.Error("the document refers to others")
	}
	var doc any
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	schemas := doc.(map[string]any)["components"].(map[string]any)["schemas"].(map[string]any)
	for _, ref := range regexp.MustCompile(`"\$ref": "([^"]*)"`).FindAllStringSubmatch(text, -1) {
		name, ours := strings.CutPrefix(ref[1], "#/components/schemas/")
		if !ours || schemas[name] == nil {
			t.Errorf("%s leads nowhere", ref[1])
		}
	}
	record := schemas["CloudEvent"].(map[string]any)["properties"].(map[string]any)
	for _, name := range []string{"id", "type", "data", "stream", "position"} {
		if record[name] == nil {
			t.Errorf("an event of the history has no %s: %v", name, record)
		}
	}
}

func TestDocsPageNeedsNobodyElse(t *testing.T) {
	t.Parallel()
	page := fetch(t, "/docs", "events.example:8443")
	if strings.Contains(strings.ToLower(page), "<script") || strings.Contains(page, "src=") || strings.Contains(page, "@import") {
		t.Error("the page needs more than itself")
	}
	for _, link := range regexp.MustCompile(`(?i)https?://[^\s'"<]*`).FindAllString(page, -1) {
		if u, err := url.Parse(link); err != nil || u.Host != "events.example:8443" {
			t.Errorf("the page names another host: %s", link)
		}
	}
	for _, link := range regexp.MustCompile(`href="([^"]*)"`).FindAllStringSubmatch(page, -1) {
		if id, here := strings.CutPrefix(link[1], "#"); here && !strings.Contains(page, fmt.Sprintf(`id="%s"`, id)) {
			t.Errorf("%s leads nowhere", link[1])
		} else if !here && link[1] != "/openapi.json" {
			t.Errorf("the page leads to %s", link[1])
		}
	}
	for path := range newAPI(nil, Config{}).routes {
		if !strings.Contains(page, ">"+path+"<") {
			t.Errorf("%s is not on the page", path)
		}
	}
	if !strings.Contains(page, "v1.2.3") || !strings.Contains(page, "ce-type") {
		t.Error("the version or the headers of binary mode are missing")
	}
}

func TestDocsPageEscapesTheHost(t *testing.T) {
	t.Parallel()
	page := fetch(t, "/docs", `hostile"><script>alert(1)</script><a href='//evil.example'>`)
	if strings.Contains(page, "<script") || strings.Contains(page, "<a href='") || strings.Contains(page, `hostile">`) || !strings.Contains(page, "hostile") {
		t.Error("the host is markup")
	}
}
