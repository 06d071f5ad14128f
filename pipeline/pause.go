package pipeline

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/rishi-platform/millrace/internal/group"
	"github.com/rishi-platform/millrace/internal/redisstream"
)

// Pause says why a group does not take events of a stream now.
type Pause struct {
	By          string    `json:"by"` // PausedByOperator, PausedByBreaker
	Reason      string    `json:"reason"`
	Since       time.Time `json:"since"`
	Consumer    string    `json:"consumer,omitempty"`    // of the breaker: who tries the next delivery; empty: nobody yet
	TriedAt     time.Time `json:"triedAt,omitzero"`      // of the breaker: when one was tried last, and failed
	Fingerprint string    `json:"fingerprint,omitempty"` // of the breaker: of the failures
}

// The two values of Pause.By.
const (
	PausedByOperator = "operator"
	PausedByBreaker  = "breaker"
)

// parsePause reads what is written about a pause; nil: the group is not paused.
func parsePause(text string) *Pause { return (*Pause)(group.ParsePause(text)) }

// pauseText is what is written about a pause.
func pauseText(p Pause) string { return group.Pause(p).Text() }

// announceTimeout bounds the publish of an event that tells of a change.
const announceTimeout = 5 * time.Second

// The events that tell of pauses, in the stream "system".
const (
	typeGroupPaused  = "system.group.paused"
	typeGroupResumed = "system.group.resumed"
)

// PauseGroup keeps a group from taking events of a stream until ResumeGroup: its consumers hear of it within a beat (2 s), finish what they
// handle, and read no more. A pause by the breaker becomes one by the operator: nothing is tried any
// more. It reports false when the group is paused by an operator already.
func (b *Bus) PauseGroup(ctx context.Context, stream, group, reason string) (bool, error) {
	g, err := b.group(ctx, stream, group)
	if err != nil {
		return false, err
	}
	if now := parsePause(g.Paused); now != nil && now.By == PausedByOperator {
		return false, nil
	}
	pause := Pause{By: PausedByOperator, Reason: reason, Since: time.Now().UTC()}
	done, err := b.log.Pause(ctx, stream, group, g.Paused, pauseText(pause))
	if done {
		b.announcePause(ctx, typeGroupPaused, stream, group, pause)
	}
	return done, b.redisError("pause group "+group+" of", stream, err)
}

// ResumeGroup ends a pause, whoever began it. It reports false when the group is not paused.
func (b *Bus) ResumeGroup(ctx context.Context, stream, group string) (bool, error) {
	for {
		g, err := b.group(ctx, stream, group)
		if err != nil || g.Paused == "" {
			return false, err
		}
		done, err := b.log.Pause(ctx, stream, group, g.Paused, "")
		if err != nil {
			return false, b.redisError("resume group "+group+" of", stream, err)
		}
		if done {
			b.announcePause(ctx, typeGroupResumed, stream, group, *parsePause(g.Paused))
			return true, nil
		}
	}
}

// group describes one group; ErrUnknownGroup where there is none.
func (b *Bus) group(ctx context.Context, stream, group string) (redisstream.GroupInfo, error) {
	if err := checkStreamGroup(stream, group); err != nil {
		return redisstream.GroupInfo{}, err
	}
	groups, err := b.log.Groups(ctx, stream)
	if err != nil {
		return redisstream.GroupInfo{}, b.redisError("describe groups of", stream, err)
	}
	i := slices.IndexFunc(groups, func(g redisstream.GroupInfo) bool { return g.Name == group })
	if i < 0 {
		return redisstream.GroupInfo{}, fmt.Errorf("group %s of stream %s: %w", group, stream, ErrUnknownGroup)
	}
	return groups[i], nil
}

// announcePause publishes that a group was paused or goes on. That it can't be published is logged: the change itself stands.
func (b *Bus) announcePause(ctx context.Context, eventType, stream, group string, p Pause) {
	data, _ := json.Marshal(struct {
		Stream string `json:"stream"`
		Group  string `json:"group"`
		Pause
	}{stream, group, p})
	ctx, cancel := context.WithTimeout(ctx, announceTimeout)
	defer cancel()
	if _, err := b.publishAs(ctx, PublishOptions{}, []Event{{Type: eventType, Subject: stream + "/" + group, Data: data}}, true); err != nil {
		b.logger.Warn("change of a group could not be published", "type", eventType, "stream", stream, "group", group, "err", err)
	}
}
