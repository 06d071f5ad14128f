package pipeline

import (
	"encoding/hex"
	"sync"

	"github.com/google/uuid"
)

// uuid's pool of randomness spares a system call per ID (0.16 µs instead of 0.5 per UUIDv7). It is a switch of the
// process, so it is thrown once, by the first bus.
var poolRandomness = sync.OnceFunc(uuid.EnableRandPool)

// newID returns a UUIDv7: unique, and in the order of time.
func newID() string { return string(appendID(make([]byte, 0, idLen))) }

const idLen = 36

// newIDs returns n UUIDv7 as parts of one string, which costs two allocations however many there are.
func newIDs(n int) []string {
	text := make([]byte, 0, n*idLen)
	for range n {
		text = appendID(text)
	}
	all, ids := string(text), make([]string, n)
	for i := range ids {
		ids[i] = all[i*idLen : (i+1)*idLen]
	}
	return ids
}

// appendID appends a new UUIDv7 in the form of RFC 9562.
func appendID(dst []byte) []byte {
	id, err := uuid.NewV7()
	if err != nil {
		panic(err) // the system's source of randomness is broken; nothing that follows could be trusted
	}
	dst = hex.AppendEncode(dst, id[:4])
	for _, group := range [...][]byte{id[4:6], id[6:8], id[8:10], id[10:]} {
		dst = hex.AppendEncode(append(dst, '-'), group)
	}
	return dst
}
