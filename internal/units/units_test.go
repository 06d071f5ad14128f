package units

import (
	"testing"
	"time"
)

func TestDuration(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"90s": 90 * time.Second, "1.5h": 90 * time.Minute, "1d": 24 * time.Hour, "2w": 14 * 24 * time.Hour, "1d12h": 36 * time.Hour, "0": 0, "-1s": -time.Second,
	} {
		if got, err := Duration(text); err != nil || got != want {
			t.Errorf("%s is %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "1", "d", "1x", "1 day", "2026-01-01"} {
		if got, err := Duration(text); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

func TestTime(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"2026-01-31T12:00:00Z": time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC), "2026-01-31T12:00:00+02:00": time.Date(2026, 1, 31, 10, 0, 0, 0, time.UTC),
		"2026-01-31T12:00:00 02:00": time.Date(2026, 1, 31, 10, 0, 0, 0, time.UTC), "2026-01-31": time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC),
		"2h": now.Add(-2 * time.Hour), "1d": now.Add(-24 * time.Hour),
	} {
		if got, err := Time(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%s is %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "-2h", "yesterday", "2026-13-01", "12:00"} {
		if got, err := Time(text, now); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

func TestBytes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{"1073741824": 1 << 30, "1GiB": 1 << 30, "512 MiB": 512 << 20, "1GB": 1e9, "0": 0} {
		if got, err := Bytes(text); err != nil || got != want {
			t.Errorf("%s is %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "-1", "1XB", "GiB", "99999999999999999999"} {
		if got, err := Bytes(text); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}
