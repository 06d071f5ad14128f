//go:build !race

package watermilltest

const raceEnabled = false
