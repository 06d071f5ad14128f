package redisstream

import (
	"encoding/binary"
	"errors"
	"math"
)

// Pair is one metadata entry.
type Pair struct{ Key, Value string }

// AppendMetadata appends the pairs, in their order, to dst as a msgpack map of strings, and returns it. Without pairs it appends
// nothing: watermill-redisstream writes no metadata as an empty field.
func AppendMetadata(dst []byte, pairs []Pair) []byte {
	dst = AppendMapHeader(dst, len(pairs))
	for _, p := range pairs {
		dst = AppendPair(dst, p.Key, p.Value)
	}
	return dst
}

// AppendMapHeader begins a map of n pairs, which AppendPair writes.
func AppendMapHeader(dst []byte, n int) []byte {
	switch {
	case n == 0:
		return dst
	case n < 16:
		return append(dst, 0x80|byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(dst, 0xde), uint16(n))
	}
	return binary.BigEndian.AppendUint32(append(dst, 0xdf), uint32(n))
}

// AppendPair appends one pair of a map.
func AppendPair(dst []byte, key, value string) []byte {
	return appendString(appendString(dst, key), value)
}

func appendString(dst []byte, s string) []byte {
	switch n := len(s); {
	case n < 32:
		dst = append(dst, 0xa0|byte(n))
	case n <= math.MaxUint8:
		dst = append(dst, 0xd9, byte(n))
	case n <= math.MaxUint16:
		dst = binary.BigEndian.AppendUint16(append(dst, 0xda), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint32(append(dst, 0xdb), uint32(n))
	}
	return append(dst, s...)
}

var errMetadata = errors.New("metadata is not a msgpack map of strings")

// WithPairs returns metadata with more pairs behind its own.
func WithPairs(metadata string, pairs ...Pair) (string, error) {
	n, rest := uint32(0), ""
	if len(metadata) > 0 && metadata != "\xc0" {
		var err error
		if n, rest, err = readMapHeader(metadata); err != nil {
			return "", err
		}
	}
	b := append(AppendMapHeader(make([]byte, 0, len(metadata)+64), int(n)+len(pairs)), rest...)
	for _, p := range pairs {
		b = AppendPair(b, p.Key, p.Value)
	}
	return string(b), nil
}

// ReadMetadata calls each for every pair of a msgpack map of strings, as AppendMetadata or watermill-redisstream wrote it. Empty bytes
// and nil are no metadata.
func ReadMetadata(b string, each func(key, value string) error) error {
	if len(b) == 0 || len(b) == 1 && b[0] == 0xc0 {
		return nil
	}
	n, b, err := readMapHeader(b)
	if err != nil {
		return err
	}
	for range n {
		var key, value string
		if key, b, err = readString(b); err != nil {
			return err
		}
		if value, b, err = readString(b); err != nil {
			return err
		}
		if err := each(key, value); err != nil {
			return err
		}
	}
	if len(b) > 0 {
		return errMetadata
	}
	return nil
}

func readMapHeader(b string) (uint32, string, error) {
	switch c := b[0]; {
	case c&0xf0 == 0x80:
		return uint32(c & 0x0f), b[1:], nil
	case c == 0xde:
		return readLength(b[1:], 2)
	case c == 0xdf:
		return readLength(b[1:], 4)
	}
	return 0, "", errMetadata
}

// readString reads a string or a binary, as which some libraries write one.
func readString(b string) (text, rest string, err error) {
	if len(b) == 0 {
		return "", "", errMetadata
	}
	var n uint32
	switch c := b[0]; {
	case c&0xe0 == 0xa0:
		n, b = uint32(c&0x1f), b[1:]
	case c == 0xd9, c == 0xc4:
		n, b, err = readLength(b[1:], 1)
	case c == 0xda, c == 0xc5:
		n, b, err = readLength(b[1:], 2)
	case c == 0xdb, c == 0xc6:
		n, b, err = readLength(b[1:], 4)
	case c == 0xc0:
		return "", b[1:], nil
	default:
		return "", "", errMetadata
	}
	if err != nil || uint64(n) > uint64(len(b)) {
		return "", "", errMetadata
	}
	return b[:n], b[n:], nil
}

// readLength reads a big-endian length of the given number of bytes.
func readLength(b string, size int) (uint32, string, error) {
	if len(b) < size {
		return 0, "", errMetadata
	}
	n := uint32(0)
	for i := range size {
		n = n<<8 | uint32(b[i])
	}
	return n, b[size:], nil
}
