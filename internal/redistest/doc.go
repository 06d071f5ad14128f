// Package redistest gives a test binary a private redis-server, and a network to it that can be broken.
//
// Only _test.go files import it. A package that uses it has one TestMain:
//
//	func TestMain(m *testing.M) { os.Exit(redistest.Run(m)) }
//
// # Which server
//
//   - [Shared] is one server for the whole test binary, started by the first test that asks and stopped by [Run]. Tests run on
//     it side by side, each with a [Namespace] of its own. Nobody may stop, freeze or flush it, and it refuses when asked to.
//   - [Start] is a server of one test's own. It may be stopped, killed, frozen and started again; it keeps its port and its
//     folder throughout, so a client that lost it finds it again under the same address.
//   - [NewProxy] stands between a client and a server and freezes, delays, swallows replies, resets or refuses.
//   - [RestartOverSocket] is for a test suite that knows only how to run a command.
//
// Every server has its own free port on 127.0.0.1 and its own folder, and persists nothing unless its test says so:
//
//	s := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
//	client := s.Client(t)
//	s.Kill(t)
//	s.StartAgain(t) // answers, and has read its append-only file
//
// # What it needs
//
// A redis-server (7.0 or newer) or valkey-server (8 or newer) on PATH, or the path of one in MILLRACE_REDIS_SERVER. Without
// one, tests fail rather than skip: a suite that is green because it did not run is worse than a red one.
//
// # What ends when
//
// Start's servers and proxies end in the test's Cleanup, the shared one in Run, before Run looks for leaked goroutines. On
// Linux a server also dies with the test binary, however that ends; elsewhere a test binary that is killed leaves its
// server behind.
//
// Waiting is done on facts (the server answers PING, the process has been reaped, the kernel says it has stopped) with a
// deadline of 20 s, which only a broken machine meets.
package redistest
