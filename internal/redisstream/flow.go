package redisstream

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Flow adds the share of a consumer to the record of its group at one stream, if there is one, and
// returns its sums, if they are asked for.
func (c *Client) Flow(ctx context.Context, consumer Consumer, stream string, s Share) (Flow, error) {
	keys := []string{c.flowKey(stream, consumer.Group), c.failedKey(stream, consumer.Group)}
	got, err := c.batches.run(ctx, flowScript, keys, consumer.Name, s.Handled, flag(s.Anew), flag(s.Sum)).Slice()
	if err != nil || len(got) == 0 {
		return Flow{}, err
	}
	age, ok := got[0].(int64)
	if !ok {
		return Flow{}, errReply
	}
	flow := Flow{Age: time.Duration(age) * time.Millisecond}
	for i := 1; i+1 < len(got); i += 2 {
		of, _ := got[i].(string)
		name, print, ok := strings.Cut(of, " ")
		events, isNumber := got[i+1].(int64)
		if !ok || !isNumber {
			return Flow{}, fmt.Errorf("row %v of flow: %w", got[i:i+2], errReply)
		}
		flow.Rows = append(flow.Rows, FlowRow{Consumer: name, Print: print, Events: events})
	}
	return flow, nil
}
