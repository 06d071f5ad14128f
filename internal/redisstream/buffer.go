package redisstream

import (
	"errors"
	"io"
	"slices"
)

// replyBuffer takes a reply as it comes. It is used again, so that a reply costs one piece of memory of its size; go-redis' own buffer
// would grow to it step by step each time.
type replyBuffer struct{ text []byte }

// maxReplyBuffer is the largest buffer that is kept for later.
const maxReplyBuffer = 1 << 20

// take returns the reply and makes the buffer ready for the next one.
func (b *replyBuffer) take() string {
	text := string(b.text)
	if b.text = b.text[:0]; cap(b.text) > maxReplyBuffer {
		b.text = nil
	}
	return text
}

func (b *replyBuffer) Write(p []byte) (int, error) {
	b.text = append(b.text, p...)
	return len(p), nil
}

// ReadFrom is for io.CopyN, which otherwise makes a buffer for each string.
func (b *replyBuffer) ReadFrom(r io.Reader) (int64, error) {
	begun := len(b.text)
	for {
		if l, ok := r.(*io.LimitedReader); ok {
			b.text = slices.Grow(b.text, int(l.N)+1)
		} else {
			b.text = slices.Grow(b.text, 512)
		}
		n, err := r.Read(b.text[len(b.text):cap(b.text)])
		b.text = b.text[:len(b.text)+n]
		if errors.Is(err, io.EOF) {
			return int64(len(b.text) - begun), nil
		}
		if err != nil {
			return int64(len(b.text) - begun), err
		}
	}
}
