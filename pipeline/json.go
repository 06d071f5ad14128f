package pipeline

import (
	"fmt"
	"mime"
	"strings"
	"unicode/utf8"
)

// maxJSONDepth is how deep JSON may be nested. Readers have limits of their own: Python's is 1000, PHP's 512, Ruby's 100 unless told otherwise; RFC 8259,
// section 9, allows them that.
const maxJSONDepth = 512

// isJSON reports whether a content type declares JSON: subtype json, or one that ends in +json (CloudEvents' JSON format, section 3.1.1).
func isJSON(contentType string) bool {
	if contentType == "" || contentType == ContentTypeJSON {
		return true // the JSON format's default
	}
	if !strings.Contains(strings.ToLower(contentType), "json") {
		return false
	}
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && (strings.HasSuffix(media, "/json") || strings.HasSuffix(media, "+json"))
}

// jsonFault returns why data can't be read by all who read JSON; empty: it can, if it is JSON at all.
func jsonFault(data []byte) string {
	if !utf8.Valid(data) {
		return "is not UTF-8, which JSON has to be: give the content type that it has"
	}
	if len(data) > maxJSONDepth && depthOf(data) > maxJSONDepth {
		return fmt.Sprintf("is nested deeper than %d", maxJSONDepth)
	}
	return ""
}

// depthOf returns how deep JSON is nested.
func depthOf(data []byte) (deepest int) {
	depth, quoted := 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[' || c == '{':
			depth++
			deepest = max(deepest, depth)
		case c == ']' || c == '}':
			depth--
		}
	}
	return deepest
}
