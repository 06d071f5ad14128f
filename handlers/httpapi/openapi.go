package httpapi

import (
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rishi-platform/millrace/pipeline"
)

// describe returns the OpenAPI document. The schemas are made of the types that requests are read into and answers written from.
func describe(cfg Config) *huma.OpenAPI {
	schemas := huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)
	schemas.RegisterTypeAlias(reflect.TypeFor[pipeline.Record](), reflect.TypeFor[cloudEvent]())
	d := &document{schemas: schemas, OpenAPI: &huma.OpenAPI{
		OpenAPI: "3.1.0",
		Info: &huma.Info{
			Title: "Millrace", Version: cfg.Version,
			Description: "A durable event pipeline on Redis Streams. Every answer carries X-Correlation-ID; errors are problems as in RFC 9457.",
		},
		Components: &huma.Components{Schemas: schemas},
	}}
	d.describePublish(cfg)
	d.describeHistory()
	d.describeHealth()

	index := d.add(http.MethodGet, "/", "index", "Go to the docs page", "")
	index.Responses["302"] = &huma.Response{Description: "to /docs"}
	docs := d.add(http.MethodGet, "/docs", "docs", "This description for people", "")
	d.answer(docs, http.StatusOK, "a page without scripts", "text/html", &huma.Schema{Type: huma.TypeString})
	openapi := d.add(http.MethodGet, "/openapi.json", "openapi", "This description for programs", "")
	d.answer(openapi, http.StatusOK, "OpenAPI 3.1", typeJSON, &huma.Schema{Type: huma.TypeObject})
	for _, op := range []*huma.Operation{index, docs, openapi} {
		d.problems(op, 403, 422)
	}
	return d.OpenAPI
}

func (d *document) describePublish(cfg Config) {
	publish := d.add(http.MethodPost, "/api/events/publish", "publish", "Publish events",
		"One event or a list of them, in the simple form or as CloudEvents. A list is checked as a whole; after that each event has its own outcome.")
	simple, event := schemaOf[simpleEvent](d), schemaOf[cloudEvent](d)
	publish.Parameters = append(publish.Parameters, &huma.Param{Name: pipeline.HeaderCorrelationID, In: "header", Schema: &huma.Schema{Type: huma.TypeString},
		Description: "shared by everything that this request causes; 1 to 128 visible ASCII characters, made where it is missing or is not"})
	publish.Parameters = append(publish.Parameters, &huma.Param{Name: "Idempotency-Key", In: "header", Schema: &huma.Schema{Type: huma.TypeString},
		Description: "1 to 255 printable ASCII characters: a request with a key of the last 24 hours is answered like the first one, with duplicate true, and publishes nothing. An event that comes with an id is published once within 10 minutes without a key"})
	attributes := d.schemas.SchemaFromRef(event.Ref).Properties
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		if name == "data" || name == "data_base64" || name == "datacontenttype" || attributes[name].ReadOnly {
			continue // the body, its content type, and what is in answers only
		}
		publish.Parameters = append(publish.Parameters, &huma.Param{Name: "ce-" + name, In: "header", Schema: attributes[name],
			Description: "of a CloudEvent in binary mode, percent-encoded: " + attributes[name].Description})
	}
	publish.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
		typeJSON:       {Schema: &huma.Schema{OneOf: []*huma.Schema{simple, listOf(simple, cfg.MaxBatch)}}},
		typeCloudEvent: {Schema: event},
		typeBatch:      {Schema: listOf(event, cfg.MaxBatch)},
		"*/*":          {Schema: &huma.Schema{Description: "data of a CloudEvent in binary mode, whose attributes and extensions are ce- headers"}},
	}}
	answer := schemaOf[published](d)
	d.answer(publish, http.StatusCreated, "every event is stored", typeJSON, answer)
	d.answer(publish, http.StatusAccepted, "every event is taken, none is in Redis yet: see durability", typeJSON, answer)
	d.answer(publish, http.StatusMultiStatus, "the events have different outcomes: see the status of each", typeJSON, answer)
	d.problems(publish, 400, 403, 413, 415, 422, 429, 500, 503)
}

func (d *document) describeHistory() {
	history := d.add(http.MethodGet, "/api/events/history", "history", "Look at what was published", "The newest first, unless order says otherwise.")
	for _, p := range historyParameters {
		history.Parameters = append(history.Parameters, &huma.Param{Name: p.name, In: "query", Description: p.doc, Schema: p.schema()})
	}
	d.answer(history, http.StatusOK, "a page of events", typeJSON, schemaOf[page](d))
	history.Responses["200"].Content[typeBatch] = &huma.MediaType{Schema: listOf(schemaOf[cloudEvent](d), maxLimit)}
	d.problems(history, 403, 422, 500, 503)
}

func (d *document) describeHealth() {
	health := d.add(http.MethodGet, "/api/events/health", "health", "Report on the server, Redis, the streams and their groups", "Numbers that are not known are null.")
	report := schemaOf[pipeline.Health](d)
	members := d.schemas.SchemaFromRef(report.Ref).Properties
	members["spool"] = &huma.Schema{OneOf: []*huma.Schema{members["spool"], {Type: "null"}}} // huma can't say it of an object
	d.answer(health, http.StatusOK, "healthy or degraded", typeJSON, report)
	d.answer(health, http.StatusServiceUnavailable, "unhealthy", typeJSON, report)
	d.problems(health, 403, 422)

	livez := d.add(http.MethodGet, "/livez", "livez", "Whether the process lives", "Slow to fail: as long as it answers, a restart would heal nothing.")
	d.answer(livez, http.StatusOK, "it lives", typeJSON, schemaOf[alive](d))
	d.problems(livez, 422)
	readyz := d.add(http.MethodGet, "/readyz", "readyz", "Whether publishing works now", "Fast to fail.")
	d.answer(readyz, http.StatusOK, "it does", typeJSON, schemaOf[alive](d))
	d.problems(readyz, 422, 429, 500, 503)
}

// document is an OpenAPI document that is being written.
type document struct {
	*huma.OpenAPI
	schemas huma.Registry
}

func (d *document) add(method, path, id, summary, description string) *huma.Operation {
	op := &huma.Operation{Method: method, Path: path, OperationID: id, Summary: summary, Description: description, Responses: map[string]*huma.Response{}}
	d.AddOperation(op)
	return op
}

func (d *document) answer(op *huma.Operation, status int, description, contentType string, schema *huma.Schema) {
	op.Responses[strconv.Itoa(status)] = &huma.Response{Description: description, Content: map[string]*huma.MediaType{contentType: {Schema: schema}}}
}

// problems adds the ways in which an operation fails.
func (d *document) problems(op *huma.Operation, statuses ...int) {
	for _, status := range statuses {
		d.answer(op, status, http.StatusText(status), typeProblem, schemaOf[problemBody](d))
	}
}

func schemaOf[T any](d *document) *huma.Schema {
	return d.schemas.Schema(reflect.TypeFor[T](), true, "")
}

func listOf(schema *huma.Schema, most int) *huma.Schema {
	return &huma.Schema{Type: huma.TypeArray, Items: schema, MaxItems: &most}
}

// schema describes the values of the parameter.
func (p parameter) schema() *huma.Schema {
	least, most := 1.0, float64(maxLimit)
	switch {
	case p.name == "eventType":
		return &huma.Schema{Type: huma.TypeArray, Items: &huma.Schema{Type: huma.TypeString}}
	case p.name == "limit":
		return &huma.Schema{Type: huma.TypeInteger, Minimum: &least, Maximum: &most, Default: defaultLimit}
	case p.values != nil:
		return &huma.Schema{Type: huma.TypeString, Enum: p.values, Default: p.values[0]}
	}
	return &huma.Schema{Type: huma.TypeString}
}
