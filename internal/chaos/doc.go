// Package chaos breaks things on purpose and counts afterwards. Worker processes handle what a publisher publishes, while a driver kills,
// freezes and restarts them and their Redis at random, from a seed that it prints. Then Account holds what was published against what was
// handled: nothing may be missing, and what was handled twice needs an excuse.
//
// The driver is a test (driver_test.go), since it takes its Redis from package redistest. make test runs it for some seconds, make chaos for ten
// minutes.
package chaos
