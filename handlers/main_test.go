package handlers

import (
	"os"
	"testing"
	"time"

	"github.com/rishi-platform/millrace/internal/redistest"
	"github.com/rishi-platform/millrace/pipeline"
)

func TestMain(m *testing.M) { os.Exit(redistest.Run(m)) }

// delivery returns the second attempt to hand an invoice with the given payload to the group "mail".
func delivery(data string) *pipeline.Delivery {
	return &pipeline.Delivery{
		Event: pipeline.Event{
			ID: "e-1", Type: "invoice.issued", Source: "billing", Subject: "invoice/7", CorrelationID: "abc-1",
			Time: time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC), ContentType: pipeline.ContentTypeJSON, Data: []byte(data),
		},
		Stream: "invoice", Position: "1764000000000-3", Group: "mail", Attempt: 2,
	}
}
