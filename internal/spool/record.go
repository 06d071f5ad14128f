package spool

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

const (
	magic = "millspl2"
	// idLength is that of an ID, which is a rand.Text.
	idLength     = 26
	headerLength = len(magic) + 8 + idLength + 4
	recordHeader = 4 + 4
	// Segments of the first version have no ID in their header: that of their slot is theirs.
	magicSlot        = "millspl1"
	headerSlotLength = len(magicSlot) + 8 + 4
	// MaxRecord is the most bytes of one record.
	MaxRecord = 16 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header is what a segment begins with.
type header struct {
	first  uint64 // number of the first record
	id     string // of the records; empty: that of the slot
	length int
}

func appendHeader(b []byte, id string, first uint64) []byte {
	begin := len(b)
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint64(b, first)
	b = append(b, id...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[begin:], castagnoli))
}

// parseHeader returns the header that b begins with; false where there is none.
func parseHeader(b []byte) (h header, ok bool) {
	h.length = headerLength
	if len(b) >= len(magicSlot) && string(b[:len(magicSlot)]) == magicSlot {
		h.length = headerSlotLength
	} else if len(b) < headerLength || string(b[:len(magic)]) != magic {
		return header{}, false
	}
	if len(b) < h.length || crc32.Checksum(b[:h.length-4], castagnoli) != binary.LittleEndian.Uint32(b[h.length-4:]) {
		return header{}, false
	}
	h.first = binary.LittleEndian.Uint64(b[len(magic):])
	h.id = string(b[len(magic)+8 : h.length-4])
	return h, true
}

func appendRecord(b []byte, number uint64, data []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	b = binary.LittleEndian.AppendUint32(b, checksum(number, data))
	return append(b, data...)
}

// checksum covers the number as well, which is not written: a record at the wrong place is none.
func checksum(number uint64, data []byte) uint32 {
	var head [12]byte
	binary.LittleEndian.PutUint32(head[:4], uint32(len(data)))
	binary.LittleEndian.PutUint64(head[4:], number)
	return crc32.Update(crc32.Checksum(head[:], castagnoli), castagnoli, data)
}

// errTorn is what stands where a whole record should.
var errTorn = errors.New("record is incomplete or damaged")

// lengthOf returns how long the record at the beginning of b says that it is; false where it can't be.
func lengthOf(b []byte) (length int, ok bool) {
	if len(b) < recordHeader {
		return 0, false
	}
	n := binary.LittleEndian.Uint32(b)
	return int(n), n <= MaxRecord && int(n) <= len(b)-recordHeader
}

// parseRecord returns the record at the beginning of b and how many bytes it takes; 0 bytes where b is empty.
func parseRecord(b []byte, number uint64) (data []byte, size int, err error) {
	if len(b) == 0 {
		return nil, 0, nil
	}
	length, ok := lengthOf(b)
	if !ok {
		return nil, 0, errTorn
	}
	data = b[recordHeader : recordHeader+length]
	if checksum(number, data) != binary.LittleEndian.Uint32(b[4:]) {
		return nil, 0, errTorn
	}
	return data, recordHeader + length, nil
}
