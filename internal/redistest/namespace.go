package redistest

import (
	"crypto/rand"
	"strings"
	"testing"
)

// Namespace returns a key prefix that no other test has: a part of the test's name, so that a key says whose it is, and
// randomness. It has at most 40 characters of [A-Za-z0-9._-].
func Namespace(tb testing.TB) string {
	tb.Helper()
	const nameLen, randomLen = 24, 10
	name := strings.Map(allowed, strings.TrimPrefix(tb.Name(), "Test"))
	if len(name) > nameLen {
		name = name[len(name)-nameLen:] // The end tells subtests apart.
	}
	return name + "-" + strings.ToLower(rand.Text()[:randomLen])
}

func allowed(r rune) rune {
	switch {
	case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '_', r == '.':
		return r
	}
	return '-'
}
