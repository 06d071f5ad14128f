package loadgen

import (
	"bytes"
	"strconv"
	"time"
)

// A payload is {"at":"00000001234567890123","pad":"xxx…"}: the moment has a fixed place and a fixed length, so that it is
// written and read without a JSON codec, which would otherwise be measured along with the bus.
const (
	payloadHead = `{"at":"`
	payloadBody = `","pad":"`
	payloadTail = `"}`
	momentLen   = 20

	// MinPayload is the size of a payload without padding.
	MinPayload = len(payloadHead) + momentLen + len(payloadBody) + len(payloadTail)
)

// epoch is where this process's moments begin. Differences to it are of the monotonic clock.
var epoch = time.Now()

// NewPayload returns a payload of size bytes, which is at least MinPayload, that carries no moment.
func NewPayload(size int) []byte {
	p := make([]byte, 0, size)
	p = append(p, payloadHead...)
	p = append(p, bytes.Repeat([]byte("0"), momentLen)...)
	p = append(p, payloadBody...)
	p = append(p, bytes.Repeat([]byte("x"), size-MinPayload)...)
	return append(p, payloadTail...)
}

// Stamp writes the present moment into a payload.
func Stamp(payload []byte) {
	at := payload[len(payloadHead) : len(payloadHead)+momentLen]
	for i, ns := momentLen-1, time.Since(epoch); i >= 0; i, ns = i-1, ns/10 {
		at[i] = '0' + byte(ns%10)
	}
}

// Age returns how long ago a payload was stamped by this process; false for one that carries no moment.
func Age(payload []byte) (time.Duration, bool) {
	if len(payload) < MinPayload {
		return 0, false
	}
	at, err := strconv.ParseInt(string(payload[len(payloadHead):len(payloadHead)+momentLen]), 10, 64)
	if err != nil || at == 0 {
		return 0, false
	}
	return time.Since(epoch) - time.Duration(at), true
}
