package pipeline

import types "github.com/rishi-platform/millrace/internal/pattern"

// SystemStream is the stream of what Millrace itself reports. Only Millrace publishes to it, and a
// pattern whose first segment is a wildcard does not match it.
const SystemStream = "system"

// StreamOf returns the stream of a type or pattern: its first segment.
func StreamOf(eventType string) string { return types.StreamOf(eventType) }

// CheckType returns an error that says what is wrong with an event type, nil if nothing is.
func CheckType(eventType string) error { return types.CheckType(eventType) }

// CheckPattern returns an error that says what is wrong with a pattern, nil if nothing is. A pattern is a
// type in which any segment may be "*" (exactly one segment) and the last one "**" (one or more).
func CheckPattern(pattern string) error { return types.Check(pattern) }

// CheckStream returns an error that says what is wrong with the name of a stream, nil if nothing is.
func CheckStream(stream string) error { return types.CheckStream(stream) }

// Match reports whether the type matches the pattern. Patterns match whole segments: "*" stands for one,
// "**" for one or more at the end. A pattern that begins with a wildcard does not match types of the
// stream "system".
func Match(pattern, eventType string) bool { return types.Match(pattern, eventType) }
