package pipeline

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/wire"
)

// spooled is one record of the spool: an event that certainly is not in Redis, or an append of which nobody knows. That one is the same append again
// when it is drained, with the same writer and sequence, so that it is stored once whatever became of the first time.
type spooled struct {
	stream   string
	at       time.Time          // when it was accepted
	doubtful redisstream.Writer // of an append of which nobody knows; empty: of none
	events   []spooledEvent

	// discarded is how many events stood in the record before an operator took them out; 0: it is one that is to be drained.
	discarded int

	id     string // of the process that has spooled it; with the number it names the record for ever
	number uint64 // in the spool; 0: not known yet
	placed bool   // it was told where its event stands
}

type spooledEvent struct {
	subject string
	message redisstream.Message
	once    *redisstream.Seen
}

// marked is the message of an event that certainly is not in Redis, as it goes there and to those who hear it before: it names its record, so that
// nobody hears it twice, and the groups that have handled it, so that they do not again.
func (e *spooledEvent) marked(spool string, number uint64, handled string) redisstream.Message {
	m := e.message
	pairs := []redisstream.Pair{{Key: wire.KeyOrigin, Value: OriginDrain}, {Key: wire.KeyHandled, Value: handled}, {Key: wire.KeySpool, Value: spoolMark(spool, number)}}
	if handled == "" {
		pairs = slices.Delete(pairs, 1, 2)
	}
	marked, err := redisstream.WithPairs(m.Metadata, pairs...)
	if err == nil { // else it is not ours to read, and goes there as it is
		m.Metadata = marked
	}
	return m
}

// certain reports whether the event of a record certainly is not in Redis, and is a new one.
func (s *spooled) certain() bool { return s.doubtful.Name == "" && !s.once() }

func spoolMark(spool string, number uint64) string {
	return spool + "/" + strconv.FormatUint(number, 10)
}

// spoolVersion is the first byte of each record, spoolDiscarded that of one whose events were discarded.
const (
	spoolVersion   = 1
	spoolDiscarded = 0
)

// encodeDiscarded is what takes the place of a record whose events are discarded, of the same length: what stands behind it stays where it is.
func (s *spooled) encodeDiscarded(length int) []byte {
	b := append(binary.AppendUvarint([]byte{spoolDiscarded}, uint64(len(s.stream))), s.stream...)
	b = binary.AppendUvarint(b, uint64(len(s.events)))
	return append(b, make([]byte, max(0, length-len(b)))...)
}

func (s *spooled) encode() []byte {
	b := []byte{spoolVersion}
	text := func(t string) { b = append(binary.AppendUvarint(b, uint64(len(t))), t...) }
	text(s.stream)
	b = binary.AppendVarint(b, s.at.UnixMilli())
	text(s.doubtful.Name)
	b = binary.AppendUvarint(b, s.doubtful.Seq)
	b = binary.AppendUvarint(b, uint64(len(s.events)))
	for _, e := range s.events {
		text(e.subject)
		text(e.message.UUID)
		text(e.message.Metadata)
		text(e.message.Payload)
		if e.once == nil {
			text("")
			continue
		}
		text(e.once.Key)
		b = binary.AppendVarint(b, e.once.Window.Milliseconds())
		text(e.once.Print)
	}
	return b
}

var errSpoolRecord = errors.New("record of the spool can't be read: it is of another version, or damaged")

// spooledStream returns the stream of a record, which it does not decode; false where this version can't.
func spooledStream(b []byte) (stream []byte, ok bool) {
	if len(b) == 0 || b[0] != spoolVersion && b[0] != spoolDiscarded {
		return nil, false
	}
	n, size := binary.Uvarint(b[1:])
	if size <= 0 || n > uint64(len(b)-1-size) {
		return nil, false
	}
	return b[1+size : 1+size+int(n)], true
}

func decodeSpooled(b []byte) (s spooled, err error) {
	if len(b) == 0 || b[0] != spoolVersion && b[0] != spoolDiscarded {
		return s, errSpoolRecord
	}
	kind := b[0]
	b = b[1:]
	all := string(b) // of which every text is a part
	ok := true
	number := func() uint64 {
		n, size := binary.Uvarint(b)
		if size <= 0 {
			ok, b = false, nil
			return 0
		}
		b = b[size:]
		return n
	}
	signed := func() int64 {
		n, size := binary.Varint(b)
		if size <= 0 {
			ok, b = false, nil
			return 0
		}
		b = b[size:]
		return n
	}
	text := func() string {
		n := number()
		if n > uint64(len(b)) {
			ok, b = false, nil
			return ""
		}
		at := len(all) - len(b)
		b = b[n:]
		return all[at : at+int(n)]
	}
	s.stream = text()
	if kind == spoolDiscarded {
		s.discarded = int(min(number(), math.MaxInt32))
		if !ok || s.discarded == 0 {
			return s, errSpoolRecord
		}
		return s, nil
	}
	s.at = time.UnixMilli(signed()).UTC()
	s.doubtful = redisstream.Writer{Name: text(), Seq: number()}
	for n := number(); n > 0 && ok; n-- {
		e := spooledEvent{subject: text(), message: redisstream.Message{UUID: text(), Metadata: text(), Payload: text()}}
		if key := text(); key != "" {
			e.once = &redisstream.Seen{Key: key, Window: time.Duration(signed()) * time.Millisecond, Print: text()}
		}
		s.events = append(s.events, e)
	}
	if !ok || len(b) > 0 || len(s.events) == 0 {
		return s, errSpoolRecord
	}
	return s, nil
}
