package main

import (
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
)

// The events of every system carry what Millrace stamps on an event that names only its type and its data: the values below are of
// the same lengths. (The four keys are the smallest set that Millrace writes.)
const (
	stream    = "bench"
	eventType = "bench.event"
	group     = "bench"
	service   = "bench"
)

var attributes = [][2]string{
	{"type", eventType},
	{"source", service},
	{"time", "2026-11-25T22:18:30.585821047Z"},
	{"correlation_id", "01a214c9-f939-7c94-b90f-8673ee7b9b55"},
}

func watermillMetadata() message.Metadata {
	m := make(message.Metadata, len(attributes))
	for _, a := range attributes {
		m[a[0]] = a[1]
	}
	return m
}

func natsHeader() nats.Header {
	h := make(nats.Header, len(attributes))
	for _, a := range attributes {
		h[a[0]] = []string{a[1]}
	}
	return h
}

// msgpackMetadata is the field "metadata" of an entry. Map and strings are all short enough for the one-byte forms, but for the
// correlation ID (0xd9: a string of up to 255 bytes).
func msgpackMetadata() []byte {
	b := []byte{0x80 | byte(len(attributes))}
	for _, a := range attributes {
		for _, s := range a {
			if len(s) < 32 {
				b = append(b, 0xa0|byte(len(s)))
			} else {
				b = append(b, 0xd9, byte(len(s)))
			}
			b = append(b, s...)
		}
	}
	return b
}
