package spool

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

const (
	magic        = "millspl1"
	headerLength = len(magic) + 8 + 4
	recordHeader = 4 + 4
	// MaxRecord is the most bytes of one record.
	MaxRecord = 16 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendHeader appends the header of a segment whose first record has the given number.
func appendHeader(b []byte, first uint64) []byte {
	begin := len(b)
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint64(b, first)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[begin:], castagnoli))
}

// parseHeader returns the number of the first record of a segment; false where that is no header.
func parseHeader(b []byte) (first uint64, ok bool) {
	if len(b) < headerLength || string(b[:len(magic)]) != magic {
		return 0, false
	}
	sum := binary.LittleEndian.Uint32(b[headerLength-4:])
	return binary.LittleEndian.Uint64(b[len(magic):]), crc32.Checksum(b[:headerLength-4], castagnoli) == sum
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
