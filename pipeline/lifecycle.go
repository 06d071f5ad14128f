package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"time"

	"github.com/rishi-platform/millrace/internal/loop"
)

// stoppingTimeout bounds how long a close waits for the event that tells of it.
const stoppingTimeout = time.Second

// announceStart publishes system.service.started, as soon as anything can be published.
func (b *Bus) announceStart() {
	var backoff loop.Backoff
	for {
		err := b.announceLife(b.stopped, "started")
		if err == nil || !backoff.Wait(b.stopped) {
			return
		}
		if !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrUnknown) {
			b.logger.Warn("start could not be published", "err", err)
			return
		}
	}
}

// announceStop publishes system.service.stopping, where that is possible at once.
func (b *Bus) announceStop() {
	ctx, cancel := context.WithTimeout(context.Background(), stoppingTimeout)
	defer cancel()
	if err := b.announceLife(ctx, "stopping"); err != nil {
		b.logger.Warn("stop could not be published", "err", err)
	}
}

// announceLife publishes that the service has started, or is stopping. The source of the event is the service, its subject the instance.
func (b *Bus) announceLife(ctx context.Context, what string) error {
	about := struct {
		Service  string    `json:"service"`
		Instance string    `json:"instance"`
		Version  string    `json:"version,omitempty"`
		Mode     Mode      `json:"mode"`
		PID      int       `json:"pid"`
		Started  time.Time `json:"started"`
	}{b.cfg.Service, b.instance, b.cfg.Version, b.Mode(), os.Getpid(), b.started.UTC()}
	data, err := json.Marshal(about)
	if err != nil {
		return err
	}
	// The ID is the same each time, so that it is stored once.
	_, err = b.publishAs(ctx, PublishOptions{Once: true}, []Event{{ID: b.instance + "-" + what, Type: "system.service." + what, Subject: b.instance, Data: data}}, true)
	return err
}
