package redistest

import (
	"errors"
	"fmt"
)

// binaryVariable names a server binary that is used instead of the ones on PATH.
const binaryVariable = "MILLRACE_REDIS_SERVER"

var errNoServer = errors.New(`no redis-server on PATH, and these tests run against a real one.
Install it with "make deps", or by hand:
  Debian, Ubuntu   apt-get install redis-server
  Fedora           dnf install redis (or valkey)
  Alpine           apk add redis (or valkey)
  Arch             pacman -S redis (or valkey)
  macOS            brew install redis
or name a binary in ` + binaryVariable)

// findServer says which binary to start. A variable that names nothing usable is an error and not a reason to take another
// binary: whoever set it wants to know which version was tested. A script in its place has to exec the
// server: it is known by its process ID.
func findServer(getenv func(string) string, lookPath func(string) (string, error)) (string, error) {
	if name := getenv(binaryVariable); name != "" {
		path, err := lookPath(name)
		if err != nil {
			return "", fmt.Errorf("find the server that %s names: %w", binaryVariable, err)
		}
		return path, nil
	}
	for _, name := range []string{"redis-server", "valkey-server"} {
		if path, err := lookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errNoServer
}
