// Package loadgen puts load on a bus, through its public API alone, and counts what comes of it. The benchmark (bench/) and
// `millrace bench` share it.
//
// It has two ends, which may run in one process or in two:
//
//   - [Publish] publishes events as fast as the bus takes them, or at a rate.
//   - [Work] runs a group on package router whose handler does nothing but count. [Worker.Settled] waits until all of it has
//     been handled and acknowledged.
//
// From publish to acknowledgement in one process, with the clock around nothing else:
//
//	w := loadgen.Work(ctx, bus, cfg)
//	err := w.Ready(ctx) // joined, connected, scripts loaded
//	begin := time.Now()
//	published, err := loadgen.Publish(ctx, bus, cfg)
//	err = w.Settled(ctx, published.Events)
//	elapsed := time.Since(begin)
//	err = w.Stop()
//
// An event's payload is JSON of exactly Config.Payload bytes. Where a rate is set, it carries the moment at which Publish was
// called for it, and the worker notes how long the way to the handler took: at full speed that would be the length of a
// queue, and is not noted. The moments are of this process's monotonic clock, so both ends have to be in one process for it.
package loadgen
