// Package units reads what people write for durations, times and sizes.
package units

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	str2duration "github.com/xhit/go-str2duration/v2"
)

// Duration reads a duration: as Go writes them, and in days and weeks: 90s, 1h30m, 1d, 2w.
func Duration(text string) (time.Duration, error) {
	if d, err := time.ParseDuration(text); err == nil { // it knows fractions of all units
		return d, nil
	}
	d, err := str2duration.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("want a duration such as 90s, 2h or 1d")
	}
	return d, nil
}

var errTime = errors.New("want a time such as 2026-01-31T12:00:00Z, a date (in UTC), or how long ago, such as 2h or 1d")

// Time reads a time: as RFC 3339 has it, a date, which is its midnight in UTC, or how long before now it was. A blank in the place of a plus is one: that
// is what becomes of it in a query.
func Time(text string, now time.Time) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, strings.Replace(text, " ", "+", 1)); err == nil {
		return t, nil
	}
	if t, err := time.Parse(time.DateOnly, text); err == nil {
		return t, nil
	}
	if ago, err := Duration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	return time.Time{}, errTime
}

// Bytes reads a size: 1048576, 1MiB, 1GB.
func Bytes(text string) (int64, error) {
	n, err := humanize.ParseBytes(text)
	if err != nil || n > math.MaxInt64 {
		return 0, fmt.Errorf("want a size such as 1073741824, 512MiB or 1GiB")
	}
	return int64(n), nil
}
