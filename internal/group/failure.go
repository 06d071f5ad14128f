package group

import (
	"fmt"
	"hash/fnv"
	"regexp"
	"strings"
)

// The kinds of failure that are known here, as dead letters name them.
const (
	KindTimeout = "timeout" // the handler ran longer than Policy.Timeout
	KindCrash   = "crash"   // processes died while it ran
	KindForeign = "foreign" // the entry is not one of ours, and nobody handles it
)

// Where deliveries come from, as copies note it.
const (
	OriginRetry    = "retry"
	OriginDrain    = "drain"
	OriginRestored = "restored"
)

const (
	maxCause = 4 << 10 // bytes of an error's text that a dead letter keeps
	maxStack = 8 << 10 // of a stack
)

// shortened returns text cut to about so many bytes.
func shortened(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "") + "…"
}

// changing is what differs between failures of one reason: what is quoted, and numbers, also hexadecimal ones and UUIDs.
var changing = regexp.MustCompile(`"[^"]*"|'[^']*'|` + "`[^`]*`" + `|\b(?:0x)?[0-9a-fA-F-]*[0-9][0-9a-fA-F-]*\b`)

// Fingerprint is the same for failures of one reason: kind and error text without digits, hexadecimal and quoted parts.
func Fingerprint(kind, cause string) string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(changing.ReplaceAllString(shortened(cause, maxCause), "#"))) // never fails
	return fmt.Sprintf("%s-%012x", kind, h.Sum64()>>16)
}
