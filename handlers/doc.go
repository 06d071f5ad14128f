// Package handlers has ready-made event handlers for router.Group.Handle:
//
//   - Log writes a line to a slog.Logger,
//   - Print writes a line to a writer, for people or as JSON,
//   - Webhook posts the event to a URL,
//   - Exec runs a command, so that a worker can be written in any language,
//   - Once wraps a handler, so that what was handled is not handled again.
//
// Each acknowledges the event by returning nil and hands the failure to its group otherwise. They may be called by many
// goroutines at the same time.
package handlers
