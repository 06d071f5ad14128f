package pipeline

import (
	"context"
	"encoding/json"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
)

// GroupReport is one group of a stream with its consumers.
type GroupReport struct {
	Stream string `json:"stream"`
	GroupHealth
	Delivered Position         `json:"delivered"` // the last event that was handed to a consumer
	Frontier  Position         `json:"frontier"`  // everything up to it is settled, as of the last beat
	Lane      int64            `json:"lane"`      // retries, requeued dead letters and replays that are due
	DeadLost  int64            `json:"deadLost"`  // dead letters that were dropped by their bounds
	Members   []ConsumerReport `json:"members"`
}

// ConsumerReport is one consumer of a group.
type ConsumerReport struct {
	Name    string     `json:"name"`
	State   string     `json:"state"`    // alive, sick (it has stopped itself), silent (it may be dead), left, foreign (other software, which does not beat)
	Beat    *time.Time `json:"nextBeat"` // when its next beat is due; nil where that is not known
	Pending int64      `json:"pending"`
	*Member            // what it says of itself; nil where it says nothing
}

// Group describes one group of a stream; ErrUnknownGroup where there is none.
func (b *Bus) Group(ctx context.Context, stream, group string) (GroupReport, error) {
	g, err := b.group(ctx, stream, group)
	if err != nil {
		return GroupReport{}, err
	}
	r := GroupReport{Stream: stream, GroupHealth: groupHealth(g), Lane: g.Lane, DeadLost: g.DeadLost, Members: []ConsumerReport{}}
	if !g.LastDelivered.IsZero() {
		r.Delivered = positionOf(g.LastDelivered)
	}
	if !g.Frontier.IsZero() {
		r.Frontier = positionOf(g.Frontier)
	}
	for _, m := range g.Members {
		r.Members = append(r.Members, b.consumerReport(m))
	}
	return r, nil
}

func (b *Bus) consumerReport(m redisstream.Member) ConsumerReport {
	r := ConsumerReport{Name: m.Name, Pending: m.Pending, State: "silent"}
	switch {
	case m.Alive:
		r.State = "alive"
	case m.Beat == redisstream.Left:
		r.State = "left"
	case m.Beat < 0:
		r.State = "foreign"
	}
	if m.Beat > 0 && b.redis != nil { // the memory's clock is its own
		at := time.UnixMilli(m.Beat).UTC()
		r.Beat = &at
	}
	r.Member = aboutOf(m)
	if m.Alive && r.Member != nil && r.Sick != nil {
		r.State = "sick"
	}
	return r
}

// aboutOf is what a consumer says of itself; nil where it says nothing.
func aboutOf(m redisstream.Member) *Member {
	if m.About == "" {
		return nil
	}
	about := &Member{}
	_ = json.Unmarshal([]byte(m.About), about) // what is wrong with it stays empty
	return about
}
