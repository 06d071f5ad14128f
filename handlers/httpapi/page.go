package httpapi

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net/http"
	"time"

	"github.com/rishi-platform/millrace/pipeline"
)

// pageWriter writes a page of the history event by event, so that none is held as a whole. Nothing is sent before there is a good deal of it: up to then the
// answer can still become a problem.
type pageWriter struct {
	response http.ResponseWriter
	buffer   *bufio.Writer
	batch    bool // a bare batch of CloudEvents
	begun    bool // something was sent
	events   int
	bytes    int
}

const (
	// pageBuffer is how much is held back.
	pageBuffer = 64 << 10
	// writeFor is how long a client may take for that much.
	writeFor = time.Minute
)

func newPageWriter(w http.ResponseWriter, batch bool) *pageWriter {
	p := &pageWriter{response: w, batch: batch}
	p.buffer = bufio.NewWriterSize(p, pageBuffer)
	start := `{"events":[`
	if batch {
		start = "["
	}
	_, _ = p.buffer.WriteString(start)
	return p
}

// Write sends a part.
func (p *pageWriter) Write(b []byte) (int, error) {
	if !p.begun {
		p.begun = true
		contentType := typeJSON
		if p.batch {
			contentType = typeBatch
		}
		p.response.Header().Set("Content-Type", contentType)
		p.response.WriteHeader(http.StatusOK)
	}
	// Where the server can't do that its own timeout holds.
	_ = http.NewResponseController(p.response).SetWriteDeadline(time.Now().Add(writeFor))
	return p.response.Write(b)
}

// isFull reports whether the page has as many bytes as it may have.
func (p *pageWriter) isFull() bool { return !p.batch && p.events > 0 && p.bytes >= pageBytes }

// add writes an event. An error is one of the event, or says that the client has gone.
func (p *pageWriter) add(r pipeline.Record) error {
	text, err := jsonOf(r)
	if err != nil {
		return err
	}
	if p.events > 0 {
		_ = p.buffer.WriteByte(',') // it keeps its error
	}
	p.events++
	p.bytes += len(text)
	_, err = p.buffer.Write(text)
	return err
}

// end writes what comes behind the events.
func (p *pageWriter) end(e pageEnd) {
	_, _ = p.buffer.WriteString("]")
	if !p.batch {
		text, _ := jsonOf(e) // it always encodes
		_, _ = p.buffer.Write(append([]byte(","), text[1:]...))
	}
	_ = p.buffer.WriteByte('\n')
	_ = p.buffer.Flush() // a client that has gone is no error of ours
}

// jsonOf encodes a value as all answers are encoded: without the escapes for HTML.
func jsonOf(value any) ([]byte, error) {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	err := enc.Encode(value)
	return bytes.TrimSuffix(text.Bytes(), []byte("\n")), err
}
