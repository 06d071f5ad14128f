package pipeline

import (
	"context"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// finding is what a beat found to be taken in the group of one stream.
type finding struct {
	stream  string
	dead    []redisstream.Peer // that have died or left
	waiting bool               // events wait for a consumer of their type
}

// takeOverLoop takes over from those that beatLoop found dead, and fetches what waits for a handler that is here. It is a loop of its
// own, since it waits until the deliveries are taken on, and a beat must not wait for a handler.
func (c *consumer) takeOverLoop() {
	for {
		select {
		case <-c.reading.Done():
			return
		case found := <-c.found:
			for _, f := range found {
				for _, p := range f.dead {
					c.takeOver(f.stream, p)
				}
				if f.waiting {
					c.fetch(f.stream)
				}
			}
		}
	}
}

// takeOver takes what a dead peer holds, a batch at a time. While much is held here already, the rest waits for the next beat, or
// for another peer.
func (c *consumer) takeOver(stream string, p redisstream.Peer) {
	for c.window.room() > 0 {
		c.takingOver.Lock()
		listed, fresh, err := c.window.holdListed(func() ([]redisstream.Delivered, error) {
			return c.bus.log.TakeOver(c.reading, c.self, stream, p)
		})
		c.takingOver.Unlock()
		if err != nil || listed == 0 {
			return
		}
		for i := range fresh {
			if p.Beat == redisstream.Left && fresh[i].Count == 1 {
				fresh[i].Count = 0 // handed back, and no suspect
			}
		}
		c.logger.Info("deliveries of a consumer that is gone were taken over", "stream", stream, "peer", p.Name, "left", p.Beat == redisstream.Left, "deliveries", listed)
		if !c.take(fresh) {
			return
		}
	}
}

// fetch takes the events that peers put aside since they had no handler for them, as far as one is here. Who puts them aside must not get
// them back: so they are fetched, and not sent around until they meet the right one (docs/adr/0003).
func (c *consumer) fetch(stream string) {
	waiting, err := c.bus.log.Waiting(c.reading, stream, c.cfg.Group)
	if err != nil {
		return // the next beat finds them again
	}
	var types []string
	for t := range waiting {
		if c.handles(t) {
			types = append(types, t)
		}
	}
	// While much is held here it waits for room, but not for ever: there may be somebody to take over from.
	ctx, cancel := context.WithTimeout(c.reading, beatEvery)
	defer cancel()
	for len(types) > 0 {
		room := c.window.free(ctx)
		if room == 0 {
			return
		}
		// As when taking over: reconcile may have found them and had them settled before this answer came.
		listed, fresh, err := c.window.holdListed(func() ([]redisstream.Delivered, error) {
			return c.bus.log.Fetch(c.reading, c.self, stream, types, min(room, fetchBatch))
		})
		if err != nil || listed == 0 || !c.take(fresh) {
			return
		}
	}
}

// fetchBatch is the most events that one step fetches: a script must not hold the server up for long.
const fetchBatch = 100
