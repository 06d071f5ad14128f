package httpapi

import (
	"bytes"
	"cmp"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

//go:embed docs.html
var docsSource string

var docsTemplate = template.Must(template.New("docs").Parse(docsSource))

// render makes the OpenAPI document and what the page shows of it.
func (a *api) render() {
	doc := describe(a.cfg)
	a.docs = docsOf(doc)
	var err error
	if a.openapi, err = json.MarshalIndent(doc, "", "  "); err != nil {
		panic(fmt.Sprintf("render the API's own description: %v", err)) // it depends on nothing that a caller gives
	}
}

func (a *api) serveOpenAPI(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", typeJSON)
	_, _ = w.Write(a.openapi) // a client that has gone is no error of ours
}

// serveDocs shows the document to people, with the address that they asked in the examples.
func (a *api) serveDocs(w http.ResponseWriter, r *http.Request) {
	page := a.docs
	page.Host = r.Host
	var text bytes.Buffer
	if err := docsTemplate.Execute(&text, page); err != nil {
		a.cfg.Logger.Error("docs page can't be rendered", "err", err)
		a.problem(w, internal)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(text.Bytes())
}

// docs is the document as the page shows it.
type docs struct {
	Title, Version, Description string
	Host                        string // that was asked
	Operations                  []docsOperation
	Schemas                     []docsSchema
}

type docsOperation struct {
	Method string
	*huma.Operation
	Path      string
	Body      []docsBody
	Responses []docsResponse
}

type docsBody struct {
	ContentType string
	Schema      *docsType
}

type docsResponse struct {
	Status, Description string
	Bodies              []docsBody
}

type docsSchema struct {
	Name   string
	Fields []docsField
}

type docsField struct {
	Name, Description string
	Required          bool
	Type              *docsType
}

// docsType is a type in a few words, with the name of the schema that tells the rest.
type docsType struct{ Before, Ref, Text string }

func docsOf(doc *huma.OpenAPI) docs {
	d := docs{Title: doc.Info.Title, Version: doc.Info.Version, Description: doc.Info.Description}
	for _, path := range slices.Sorted(maps.Keys(doc.Paths)) {
		item := doc.Paths[path]
		for _, op := range []*huma.Operation{item.Post, item.Get} {
			if op != nil {
				d.Operations = append(d.Operations, docsOperationOf(op))
			}
		}
	}
	all := doc.Components.Schemas.Map()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		d.Schemas = append(d.Schemas, docsSchemaOf(name, all[name]))
	}
	return d
}

func docsOperationOf(op *huma.Operation) docsOperation {
	d := docsOperation{Method: op.Method, Path: op.Path, Operation: op}
	if op.RequestBody != nil {
		d.Body = bodiesOf(op.RequestBody.Content)
	}
	for _, status := range slices.Sorted(maps.Keys(op.Responses)) {
		r := op.Responses[status]
		d.Responses = append(d.Responses, docsResponse{Status: status, Description: r.Description, Bodies: bodiesOf(r.Content)})
	}
	return d
}

func bodiesOf(content map[string]*huma.MediaType) []docsBody {
	var bodies []docsBody
	for _, contentType := range slices.Sorted(maps.Keys(content)) {
		bodies = append(bodies, docsBody{contentType, docsTypeOf(content[contentType].Schema)})
	}
	return bodies
}

func docsSchemaOf(name string, s *huma.Schema) docsSchema {
	d := docsSchema{Name: name}
	names := slices.Sorted(maps.Keys(s.Properties))
	slices.SortStableFunc(names, func(a, b string) int { // what is required first
		return boolInt(slices.Contains(s.Required, b)) - boolInt(slices.Contains(s.Required, a))
	})
	for _, field := range names {
		p := s.Properties[field]
		d.Fields = append(d.Fields, docsField{field, p.Description, slices.Contains(s.Required, field), docsTypeOf(p)})
	}
	return d
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func docsTypeOf(s *huma.Schema) *docsType {
	switch {
	case s.Ref != "":
		return &docsType{Ref: s.Ref[strings.LastIndexByte(s.Ref, '/')+1:]}
	case len(s.OneOf) > 0: // of a thing, and a list of it or null
		t := docsTypeOf(s.OneOf[0])
		t.Text = " or a list of them"
		if s.OneOf[1].Type == "null" {
			t.Text = " or null"
		}
		return t
	case s.Type == huma.TypeArray:
		t := docsTypeOf(s.Items)
		t.Before = "list of " + t.Before
		return t
	case len(s.Enum) > 0:
		values := make([]string, len(s.Enum))
		for i, v := range s.Enum {
			values[i] = fmt.Sprint(v)
		}
		return &docsType{Text: strings.Join(values, ", ")}
	case s.Type == "":
		return &docsType{Text: cmp.Or(s.Description, "any")}
	}
	text := s.Type
	if s.Format != "" && s.Type == huma.TypeString {
		text = s.Format
	}
	if s.ContentEncoding != "" {
		text = s.ContentEncoding
	}
	if s.Nullable {
		text += " or null"
	}
	return &docsType{Text: text}
}

// TypeOf is for the template: the type of a parameter.
func (docsOperation) TypeOf(p *huma.Param) *docsType { return docsTypeOf(p.Schema) }
