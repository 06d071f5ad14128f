package redisstream

import (
	"context"
	"errors"
	"net"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Class says what an error of a server or of a connection means for whoever got it.
type Class int

const (
	None         Class = iota // no error, or nothing to read
	Away                      // the server can't be reached or can't serve now: again, with back-off
	Lost                      // the group or the stream is gone: make the group again
	BackPressure              // out of memory: publishers slow down, consumers go on
	ReadOnly                  // the server refuses writes: disk full, too few replicas
	Denied                    // a person must act: wrong password, missing right, key of another type
	Silent                    // a blocking read got no answer in time: again, on a new connection; whether the server is away others find out
	Other                     // none of the above
)

// ErrClosed says that the log was closed. Memory does; nobody asks a Client that is.
var ErrClosed = errors.New("log is closed")

// Classify says what an error means. Each branch says which outage it prevents.
func Classify(err error) Class {
	switch {
	case err == nil, errors.Is(err, redis.Nil):
		return None
	case errors.Is(err, context.Canceled):
		return Other // the caller gave up; says nothing about the server
	case errors.Is(err, ErrClosed):
		return Other
	}
	if errors.Is(err, ErrSilent) {
		return Silent // a stall, or Redis 7.0 that began to wait anew (redis #12998): no outage yet
	}
	var reply redis.Error
	if !errors.As(err, &reply) {
		return Away // the connection said it: refused, reset, EOF, time-out, unknown name
	}
	return classifyReply(reply.Error())
}

func classifyReply(text string) Class {
	word, _, _ := strings.Cut(text, " ")
	switch word {
	case "NOGROUP":
		return Lost // FLUSHALL, restart without persistence, XGROUP DESTROY: else the consumer logs it for ever
	case "UNBLOCKED":
		if strings.Contains(text, "no longer exists") {
			return Lost // DEL or overwrite while a reader waits
		}
		return Away // "force unblock": the instance changed its role
	case "OOM":
		return BackPressure // Redis is there and says stop: neither an outage nor a reason to spool
	case "NOREPLICAS", "MISCONF":
		return ReadOnly // MISCONF refuses even PING, so it must not look like a dead server
	case "WRONGTYPE", "NOPERM", "WRONGPASS", "NOAUTH", "DENIED":
		return Denied // never a fallback: it would hide a mistake
	case "LOADING", "BUSY", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "MOVED", "ASK":
		return Away // restart, long script, failover, a slot that moves: over in a while
	}
	switch {
	case strings.Contains(text, "max number of clients"):
		return Away
	case strings.Contains(text, "The user executing the script can't"), strings.Contains(text, "ACL failure in script"):
		return Denied // what NOPERM is outside of a script, until Redis 7.0 and from 7.2
	case strings.Contains(text, "last possible ID"):
		return Denied // the stream has run out of IDs (F29): the key must be renamed away
	case strings.Contains(text, scriptUnknown):
		return Denied // the server is too old
	case strings.Contains(text, "unknown command"), strings.Contains(text, "invalid username-password"), strings.Contains(text, "AUTH <password>"),
		strings.Contains(text, "invalid password"), strings.Contains(text, "DB index is out of range"):
		return Denied
	}
	return Other
}

// NotSent reports whether it is certain that the command which got this error was not carried out: the server refused it, or no
// connection was there to send it on.
func NotSent(err error) bool {
	var before notSent
	if errors.As(err, &before) {
		return true
	}
	var reply redis.Error
	if errors.As(err, &reply) {
		return true
	}
	var op *net.OpError
	var dns *net.DNSError
	return errors.As(err, &op) && op.Op == "dial" || errors.As(err, &dns) || errors.Is(err, redis.ErrPoolTimeout) || errors.Is(err, redis.ErrClosed)
}

// ErrSilent is wrapped by the error of a blocking read that got no answer in time.
var ErrSilent = errors.New("no answer in time")

// notSent is an error of something that comes before a command.
type notSent struct{ error }

func (e notSent) Unwrap() error { return e.error }
