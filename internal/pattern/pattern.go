// Package pattern knows event types, the streams that they belong to, and the patterns that select them.
package pattern

import (
	"fmt"
	"slices"
	"strings"
)

// maxSegments is how many dotted segments a type or a pattern may have.
const maxSegments = 8

// SystemStream is the stream of what Millrace itself reports. Only Millrace publishes to it, and a pattern whose first
// segment is a wildcard does not match it.
const SystemStream = "system"

// StreamOf returns the stream of a type or pattern: its first segment.
func StreamOf(eventType string) string {
	stream, _, _ := strings.Cut(eventType, ".")
	return stream
}

// CheckType returns an error that says what is wrong with an event type, nil if nothing is.
func CheckType(eventType string) error {
	return checkSegments(eventType, func(seg string, _ bool) error { return checkSegment(seg) })
}

// Check returns an error that says what is wrong with a pattern, nil if nothing is. A pattern is a type in which
// any segment may be "*" (exactly one segment) and the last one "**" (one or more).
func Check(pattern string) error {
	return checkSegments(pattern, func(seg string, last bool) error {
		switch {
		case seg == "*", seg == "**" && last:
			return nil
		case seg == "**":
			return fmt.Errorf("** may only be the last segment")
		}
		return checkSegment(seg)
	})
}

// CheckStream returns an error that says what is wrong with the name of a stream, nil if nothing is.
func CheckStream(stream string) error { return checkSegment(stream) }

func checkSegments(s string, check func(seg string, last bool) error) error {
	if s == "" {
		return fmt.Errorf("must not be empty")
	}
	if n := strings.Count(s, ".") + 1; n > maxSegments {
		return fmt.Errorf("has %d segments, at most %d are allowed", n, maxSegments)
	}
	for more := true; more; {
		var seg string
		seg, s, more = strings.Cut(s, ".")
		if err := check(seg, !more); err != nil {
			return err
		}
	}
	return nil
}

// maxSegmentLength bounds one segment, so that a type has at most 8 × 64 characters and a stream is a key of sane length.
const maxSegmentLength = 64

func checkSegment(seg string) error {
	if seg == "" {
		return fmt.Errorf("has an empty segment")
	}
	if len(seg) > maxSegmentLength {
		return fmt.Errorf("has a segment of %d characters, at most %d are allowed", len(seg), maxSegmentLength)
	}
	for i := range len(seg) {
		if c := seg[i]; !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '_' || c == '-') {
			return fmt.Errorf("segment %q: only a-z, 0-9, _ and - are allowed", seg)
		}
	}
	return nil
}

// Match reports whether the type matches the pattern. Patterns match whole segments: "*" stands for one, "**" for one or
// more at the end. A pattern that begins with a wildcard does not match types of the stream "system".
func Match(pattern, eventType string) bool {
	if StreamOf(eventType) == SystemStream && strings.HasPrefix(pattern, "*") {
		return false
	}
	for {
		p, restP, moreP := strings.Cut(pattern, ".")
		t, restT, moreT := strings.Cut(eventType, ".")
		if p == "**" {
			return t != ""
		}
		if p != "*" && p != t {
			return false
		}
		if !moreP || !moreT {
			return moreP == moreT
		}
		pattern, eventType = restP, restT
	}
}

// MatchAny reports whether the type matches one of the patterns.
func MatchAny(patterns []string, eventType string) bool {
	for _, p := range patterns {
		if Match(p, eventType) {
			return true
		}
	}
	return false
}

// CoverAll reports whether each type that one of the others matches is matched by one of the patterns; false
// also where it takes several of them to cover another one.
func CoverAll(patterns, others []string) bool {
	return !slices.ContainsFunc(others, func(other string) bool {
		return !slices.ContainsFunc(patterns, func(p string) bool { return covers(p, other) })
	})
}

// covers reports whether the pattern matches each type that the other one matches. A pattern matches "*" as
// any segment; only one that ends with "**" covers another one that does.
func covers(pattern, other string) bool {
	return (strings.HasSuffix(pattern, "**") || !strings.HasSuffix(other, "**")) && Match(pattern, other)
}

// matchesStream reports whether the pattern may match types of the stream.
func matchesStream(pattern, stream string) bool {
	first := StreamOf(pattern)
	if strings.HasPrefix(first, "*") {
		return stream != SystemStream
	}
	return first == stream
}

// Of returns those of the patterns that may match types of the stream.
func Of(patterns []string, stream string) []string {
	var of []string
	for _, p := range patterns {
		if matchesStream(p, stream) {
			of = append(of, p)
		}
	}
	return of
}

// Streams returns the streams that the patterns name, and whether some pattern follows every stream.
func Streams(patterns []string) (streams []string, all bool) {
	seen := map[string]bool{}
	for _, p := range patterns {
		s := StreamOf(p)
		if strings.HasPrefix(s, "*") {
			all = true
		} else if !seen[s] {
			seen[s] = true
			streams = append(streams, s)
		}
	}
	return streams, all
}

// WholeStream returns the patterns that match all types of a stream.
func WholeStream(stream string) []string { return []string{stream, stream + ".**"} }
