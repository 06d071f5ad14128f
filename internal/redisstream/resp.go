package redisstream

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// reply is a cursor over one RESP2 reply. Entries are parsed from it and not through go-redis'
// types, which put the fields into a map: order and duplicates of foreign entries would be lost
// (RELIABILITY F43), and each entry would cost a map. The strings it returns share the memory of
// the reply.
type reply struct{ rest string }

func newReply(text string) *reply { return &reply{rest: text} }

var errReply = errors.New("malformed reply")

// serverError is an error that the server replied, with the same text as go-redis gives it.
type serverError string

func (e serverError) Error() string { return string(e) }

// RedisError marks the error as one of the server's, as go-redis does.
func (e serverError) RedisError() {}

// line returns the kind of the next element and its text.
func (r *reply) line() (kind byte, text string, err error) {
	end := strings.Index(r.rest, "\r\n")
	if end < 1 {
		return 0, "", errReply
	}
	kind, text = r.rest[0], r.rest[1:end]
	r.rest = r.rest[end+2:]
	if kind == '-' {
		return 0, "", serverError(text)
	}
	return kind, text, nil
}

// array returns the number of elements that follow, -1 for nil.
func (r *reply) array() (int, error) {
	kind, text, err := r.line()
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(text)
	if err != nil || (kind != '*' && !(kind == '$' && n < 0)) {
		return 0, fmt.Errorf("%w: want an array", errReply)
	}
	return n, nil
}

// text returns the next bulk or simple string, or integer as text.
func (r *reply) text() (string, error) {
	kind, text, err := r.line()
	if err != nil || kind == '+' || kind == ':' {
		return text, err
	}
	n, err := strconv.Atoi(text)
	if err != nil || kind != '$' || n < 0 || len(r.rest) < n+2 {
		return "", fmt.Errorf("%w: want a string", errReply)
	}
	text = r.rest[:n]
	r.rest = r.rest[n+2:]
	return text, nil
}

// entry returns the next entry of a stream. gone means that the server knows its ID, but no longer
// its fields.
func (r *reply) entry() (e Entry, gone bool, err error) {
	if n, err := r.array(); err != nil || n != 2 {
		return e, false, errors.Join(err, errReply)
	}
	id, err := r.text()
	if err != nil {
		return e, false, err
	}
	if e.ID, err = ParseID(id); err != nil {
		return e, false, err
	}
	n, err := r.array()
	if err != nil {
		return e, false, err
	}
	if n < 0 {
		return e, true, nil
	}
	if n > len(r.rest) {
		return e, false, fmt.Errorf("%w: it ends before its %d fields", errReply, n)
	}
	var some [6]string
	fields := some[:0]
	for range n {
		f, err := r.text()
		if err != nil {
			return e, false, err
		}
		fields = append(fields, f)
	}
	e = NewEntry(e.ID, fields)
	e.own = true // the reply is this reader's
	return e, false, nil
}

// skip passes over the next element, whatever it is.
func (r *reply) skip() error {
	for left := 1; left > 0; left-- {
		end := strings.Index(r.rest, "\r\n")
		if end < 1 {
			return errReply
		}
		kind, text := r.rest[0], r.rest[1:end]
		r.rest = r.rest[end+2:]
		if kind != '$' && kind != '*' {
			continue
		}
		n, err := strconv.Atoi(text)
		switch {
		case err != nil || n > len(r.rest):
			return errReply
		case n < 0: // nil
		case kind == '*':
			left += n
		case len(r.rest) < n+2:
			return errReply
		default:
			r.rest = r.rest[n+2:]
		}
	}
	return nil
}

// list calls read for each element of a list. One that it can't read keeps back no other: it is
// passed over, unless odd makes something of its text, and the error is that of the first one.
// Where it can't be seen where the next one begins, the list ends.
func (r *reply) list(read func() error, odd func(text string) bool) error {
	n, err := r.array()
	if err != nil {
		return err
	}
	var first error
	for range n {
		before := r.rest
		err := read()
		if err == nil {
			continue
		}
		r.rest = before
		if skipErr := r.skip(); skipErr != nil {
			return errors.Join(first, err)
		}
		if text := before[:len(before)-len(r.rest)]; !odd(text) && first == nil {
			first = err
		}
	}
	return first
}

// entries returns a list of entries, as XRANGE answers.
func (r *reply) entries(each func(e Entry, gone bool)) error {
	var e Entry
	read := func() (err error) {
		var gone bool
		if e, gone, err = r.entry(); err == nil {
			each(e, gone)
		}
		return err
	}
	return r.list(read, func(text string) bool {
		if e.ID.IsZero() {
			return false
		}
		each(unreadable(e.ID, text), false)
		return true
	})
}

// unreadable returns what stands for an entry that can't be read: one of other software, with the
// reply in its only field. It has to come out of the group's pending list, and somebody should see
// it.
func unreadable(id ID, text string) Entry { return NewEntry(id, []string{FieldUnreadable, text}) }

// streams returns the entries of several streams, as XREAD and XREADGROUP answer.
func (r *reply) streams(each func(key string, e Entry, gone bool)) error {
	read := func() error {
		if two, err := r.array(); err != nil || two != 2 {
			return errors.Join(err, errReply)
		}
		key, err := r.text()
		if err != nil {
			return err
		}
		return r.entries(func(e Entry, gone bool) { each(key, e, gone) })
	}
	return r.list(read, func(string) bool { return false })
}
