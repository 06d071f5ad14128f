package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// awaitSettled returns when n events were handled and the function, which asks the server itself, past the proxy, says that
// nothing is left to be acknowledged.
func awaitSettled(ctx context.Context, handled *atomic.Int64, n int, settled func() (bool, error)) error {
	for {
		if handled.Load() >= int64(n) {
			if done, err := settled(); done || err != nil {
				return err
			}
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%d of %d events were handled: %w", handled.Load(), n, context.Cause(ctx))
		}
	}
}
