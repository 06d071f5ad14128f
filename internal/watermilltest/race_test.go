//go:build race

package watermilltest

// raceEnabled: Watermill's TestReconnect reads the list of published messages while its own goroutine still appends to it
// (test_pubsub.go, publishedMessages), so it can't run under the race detector. It runs in the build without.
const raceEnabled = true
