package redisstream

import (
	"slices"
	"unsafe"
)

// The three fields of an entry that Millrace writes, in this order. They are those of watermill-redisstream's
// marshaller, so that either side reads what the other wrote.
const (
	FieldUUID     = "_watermill_message_uuid"
	FieldMetadata = "metadata"
	FieldPayload  = "payload"
)

// FieldUnreadable is the only field of what stands for an entry that can't be read.
const FieldUnreadable = "millrace_unreadable"

// Entry is one entry of a stream as the server sent it. Almost all are ours and have just three fields in one order: they are kept as a
// Message, without a slice of fields.
type Entry struct {
	ID ID
	Of ID // in the memory of a process: the entry in Redis that this is a copy of; zero for none

	ours    bool
	own     bool // what it holds stands in memory that nobody else uses
	message Message
	fields  []string // of all others: alternately name and value, in their order, duplicates included
}

// NewEntry returns an entry of these fields, of which it keeps a copy.
func NewEntry(id ID, fields []string) Entry {
	if len(fields) == 6 && fields[0] == FieldUUID && fields[2] == FieldMetadata && fields[4] == FieldPayload {
		return Message{UUID: fields[1], Metadata: fields[3], Payload: fields[5]}.Entry(id)
	}
	return Entry{ID: id, fields: slices.Clone(fields)}
}

// Fields returns the fields of the entry: alternately name and value, in their order, duplicates included.
func (e Entry) Fields() []string {
	if !e.ours {
		return e.fields
	}
	return []string{FieldUUID, e.message.UUID, FieldMetadata, e.message.Metadata, FieldPayload, e.message.Payload}
}

// Size returns about how many bytes the entry holds.
func (e Entry) Size() int {
	size := len(e.message.UUID) + len(e.message.Metadata) + len(e.message.Payload)
	for _, f := range e.fields {
		size += len(f)
	}
	return size
}

// Message is what an entry of ours carries: the event ID, the metadata as a msgpack map of strings, and the payload.
// They are strings since nobody may change them: an entry in memory, one in a reply and one on its way share them.
type Message struct{ UUID, Metadata, Payload string }

// Message returns what the entry carries; false for a foreign entry, one without the UUID field. Absent metadata or
// payload are empty, as watermill-redisstream reads them. Where a name occurs twice the last one counts, as in its map.
func (e Entry) Message() (m Message, ok bool) {
	if e.ours {
		return e.message, true
	}
	for i := 0; i+1 < len(e.fields); i += 2 {
		switch e.fields[i] {
		case FieldUUID:
			m.UUID, ok = e.fields[i+1], true
		case FieldMetadata:
			m.Metadata = e.fields[i+1]
		case FieldPayload:
			m.Payload = e.fields[i+1]
		}
	}
	return m, ok
}

// Payload returns the payload of an entry of ours. Where the entry was read from Redis by whoever asks, it is not copied.
func (e Entry) Payload(m Message) []byte {
	if !e.own || m.Payload == "" {
		return []byte(m.Payload)
	}
	return unsafe.Slice(unsafe.StringData(m.Payload), len(m.Payload)) // of length and capacity: nothing is appended behind it
}

// Entry returns m as an entry at id.
func (m Message) Entry(id ID) Entry { return Entry{ID: id, ours: true, message: m} }
