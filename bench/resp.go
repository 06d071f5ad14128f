package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// conn speaks RESP2 with a Redis server, by hand: no pool, no map per reply, nothing between the program and the socket.
type conn struct {
	net.Conn
	replies *bufio.Reader
	out     []byte // commands that were not sent yet
}

func dial(addr string) (*conn, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, replies: bufio.NewReaderSize(c, 256<<10)}, nil
}

// appendCommand appends a command as Redis reads it.
func appendCommand(dst []byte, args ...string) []byte {
	dst = append(dst, '*')
	dst = strconv.AppendInt(dst, int64(len(args)), 10)
	dst = append(dst, '\r', '\n')
	for _, a := range args {
		dst = appendBulk(dst, a)
	}
	return dst
}

func appendBulk[S string | []byte](dst []byte, s S) []byte {
	dst = append(dst, '$')
	dst = strconv.AppendInt(dst, int64(len(s)), 10)
	dst = append(dst, '\r', '\n')
	dst = append(dst, s...)
	return append(dst, '\r', '\n')
}

func (c *conn) queue(args ...string) { c.out = appendCommand(c.out, args...) }

func (c *conn) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	_, err := c.Write(c.out)
	c.out = c.out[:0]
	return err
}

// do sends one command and returns its reply, which is no array.
func (c *conn) do(args ...string) (string, error) {
	c.queue(args...)
	if err := c.flush(); err != nil {
		return "", err
	}
	return c.text()
}

// head reads the first line of a reply: its kind and the number, or for + the text. An error reply is an error.
func (c *conn) head() (kind byte, n int, text []byte, err error) {
	line, err := c.replies.ReadSlice('\n')
	if err != nil {
		return 0, 0, nil, err
	}
	if len(line) < 3 {
		return 0, 0, nil, fmt.Errorf("reply %q", line)
	}
	kind, text = line[0], line[1:len(line)-2]
	switch kind {
	case '-':
		return 0, 0, nil, fmt.Errorf("redis: %s", text)
	case '+':
		return kind, 0, text, nil
	}
	n = number(text)
	return kind, n, text, nil
}

// number reads a decimal; the server writes no other.
func number(text []byte) int {
	negative := len(text) > 0 && text[0] == '-'
	if negative {
		text = text[1:]
	}
	n := 0
	for _, digit := range text {
		n = 10*n + int(digit-'0')
	}
	if negative {
		return -n
	}
	return n
}

// bulk reads a bulk string; it is valid until the next read.
func (c *conn) bulk() ([]byte, error) {
	kind, n, _, err := c.head()
	if err != nil {
		return nil, err
	}
	if kind != '$' || n < 0 {
		return nil, fmt.Errorf("reply %c%d where a string was expected", kind, n)
	}
	b, err := c.replies.Peek(n + 2)
	if err != nil {
		return nil, err
	}
	_, err = c.replies.Discard(n + 2)
	return b[:n], err
}

// array reads the head of an array; -1 for none.
func (c *conn) array() (int, error) {
	kind, n, _, err := c.head()
	if err == nil && kind != '*' {
		err = fmt.Errorf("reply %c%d where an array was expected", kind, n)
	}
	return n, err
}

// text reads a reply that is no array.
func (c *conn) text() (string, error) {
	kind, n, text, err := c.head()
	switch {
	case err != nil:
		return "", err
	case kind == '+' || kind == ':':
		return string(text), nil
	case kind == '$' && n < 0:
		return "", nil
	case kind != '$':
		return "", errors.New("reply is an array")
	}
	b, err := c.replies.Peek(n + 2)
	if err != nil {
		return "", err
	}
	s := string(b[:n])
	_, err = c.replies.Discard(n + 2)
	return s, err
}

// info returns one line of INFO.
func (c *conn) info(section, name string) (string, error) {
	info, err := c.do("INFO", section)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(info) {
		if value, found := strings.CutPrefix(line, name+":"); found {
			return strings.TrimSpace(value), nil
		}
	}
	return "", fmt.Errorf("INFO %s has no %s", section, name)
}

// skip reads a reply of any kind and drops it.
func (c *conn) skip() error {
	kind, n, _, err := c.head()
	switch {
	case err != nil:
		return err
	case kind == '$' && n >= 0:
		_, err = c.replies.Discard(n + 2)
	case kind == '*':
		for range n {
			if err := c.skip(); err != nil {
				return err
			}
		}
	}
	return err
}

// nothingPending reports whether a group has acknowledged all that it was given.
func (c *conn) nothingPending() (bool, error) {
	c.queue("XPENDING", stream, group, "-", "+", "1")
	if err := c.flush(); err != nil {
		return false, err
	}
	n, err := c.array()
	if err != nil {
		return false, err
	}
	for range n {
		if err := c.skip(); err != nil {
			return false, err
		}
	}
	return n == 0, nil
}

// entries reads a reply of XREADGROUP on one stream whose entries have the three fields of ours in our order, and calls each for
// every one; what it is given is valid during the call. It returns how many there were: 0 when the wait was over.
func (c *conn) entries(each func(id, payload []byte)) (int, error) {
	streams, err := c.array()
	if err != nil || streams < 0 {
		return 0, err
	}
	if _, err := c.array(); err != nil { // name and entries
		return 0, err
	}
	if _, err := c.bulk(); err != nil {
		return 0, err
	}
	n, err := c.array()
	if err != nil {
		return 0, err
	}
	var id [64]byte // the next read invalidates what bulk returned
	for range n {
		if _, err := c.array(); err != nil { // ID and fields
			return 0, err
		}
		text, err := c.bulk()
		if err != nil {
			return 0, err
		}
		idLen := copy(id[:], text)
		fields, err := c.array()
		if err != nil {
			return 0, err
		}
		var last []byte
		for range fields {
			if last, err = c.bulk(); err != nil {
				return 0, err
			}
		}
		each(id[:idLen], last)
	}
	return n, nil
}
