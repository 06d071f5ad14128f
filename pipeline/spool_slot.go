package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"time"

	"github.com/rishi-platform/millrace/internal/redisstream"
	"github.com/rishi-platform/millrace/internal/spool"
)

// SpoolSlot is the spool of one process in a folder of spools (Config.SpoolDir), seen from outside.
type SpoolSlot struct {
	Dir       string `json:"dir"`
	Namespace string `json:"namespace"` // "default" where there is none
	Server    string `json:"server"`    // address of the Redis that its events are for
	ServerID  string `json:"serverId"`  // the ID that is kept in that; empty where no process has reached it
	InUse     bool   `json:"inUse"`     // a living process has it, and drains it
	Events    int    `json:"events"`    // that stand in it; some of the oldest may be in Redis already
	// Unreadable is how many records are of another version, and stay.
	Unreadable int        `json:"unreadable"`
	Bytes      int64      `json:"bytes"`
	Oldest     *time.Time `json:"oldest"` // when the oldest of them was accepted
	// Trouble is why no process can drain it; empty: one can.
	Trouble string `json:"trouble,omitempty"`
}

// SpoolSlots describes the slots in a folder of spools. It takes none of them and changes nothing. What is wrong with one of them is in its
// Trouble.
func SpoolSlots(dir string) ([]SpoolSlot, error) {
	namespaces, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var slots []SpoolSlot
	for _, n := range namespaces {
		if !n.IsDir() {
			continue
		}
		for _, found := range spool.List(filepath.Join(dir, n.Name())) {
			s := SpoolSlot{
				Dir: found.Dir, Namespace: n.Name(), Server: found.Server.Address, ServerID: found.Server.ID, InUse: found.InUse, Bytes: found.Bytes,
			}
			if err := cmp.Or(found.Err, s.count()); err != nil {
				s.Trouble = err.Error()
			}
			slots = append(slots, s)
		}
	}
	return slots, nil
}

// count counts what stands in a slot.
func (s *SpoolSlot) count() error {
	for record, err := range spoolRecords(s.Dir) {
		if errors.Is(err, errSpoolRecord) {
			s.Unreadable++
			continue
		}
		if err != nil {
			return err
		}
		if s.Oldest == nil && record.discarded == 0 {
			at := record.at
			s.Oldest = &at
		}
		s.Events += len(record.events)
	}
	return nil
}

// SpooledEvents yields the events that stand in a slot (SpoolSlot.Dir), the oldest first; those of another version are passed over. Some of the oldest may be in Redis already: room is given back a
// segment at a time.
func SpooledEvents(slot string) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		var b Bus
		for record, err := range spoolRecords(slot) {
			if errors.Is(err, errSpoolRecord) {
				continue // of another version
			}
			if err != nil {
				yield(Event{}, err)
				return
			}
			for _, e := range record.events {
				if !yield(Event(b.decode(record.stream, e.message.Entry(redisstream.ID{})).Event), nil) {
					return
				}
			}
		}
	}
}

// SpoolServer is a Redis that spooled events are for.
type SpoolServer struct {
	Address string // as processes are given it, with the number of the database
	ID      string // the ID that is kept in it; empty: none is known
}

// FindSpoolServer asks Redis which one it is. It writes nothing. Where Redis does not answer the error is ErrUnavailable, and the address is
// there still.
func FindSpoolServer(ctx context.Context, cfg Config) (SpoolServer, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return SpoolServer{}, fmt.Errorf("configure bus: %w", err)
	}
	b := &Bus{cfg: cfg}
	s := SpoolServer{Address: b.address()}
	client := redisstream.New(redisstream.Config{Redis: cfg.Redis, Namespace: cfg.Namespace})
	ctx, cancel := context.WithTimeout(ctx, firstTimeout)
	defer cancel()
	s.ID, err = client.ServerID(ctx, "")
	return s, errors.Join(b.redisError("connect to redis", "", err), client.Close())
}

// Drains reports whether a bus of this Redis drains a slot, once no process has that.
func (s SpoolServer) Drains(slot SpoolSlot) bool {
	return slot.Trouble == "" && spool.Server{Address: slot.Server, ID: slot.ServerID}.Is(spool.Server(s))
}

// DiscardSpooled takes the events of one stream out of a slot (SpoolSlot.Dir) that no living process has, and returns how many they were: where
// Redis refuses them for good, and nobody mends that. Some of the oldest may be in Redis already. Their loss is told by the next process that has the
// slot (ReasonDiscarded). With dryRun it only counts. A slot that a process has is an error; after another one some may be discarded.
func DiscardSpooled(slot, stream string, dryRun bool) (events int, err error) {
	err = spool.Rewrite(slot, func(r spool.Record) []byte {
		record, err := decodeSpooled(r.Data)
		if err != nil || record.stream != stream || record.discarded > 0 {
			return nil // one of another version stays
		}
		events += len(record.events)
		if dryRun {
			return nil
		}
		return record.encodeDiscarded(len(r.Data))
	})
	return events, err
}

// AssignSpool makes a slot (SpoolSlot.Dir) that no living process has one of this Redis: its events are to go there, or it has another address
// now and has lost its ID, or the slot's file owner is damaged.
func AssignSpool(slot string, to SpoolServer) error { return spool.Assign(slot, spool.Server(to)) }

var errStop = errors.New("stop")

func spoolRecords(slot string) iter.Seq2[spooled, error] {
	return func(yield func(spooled, error) bool) {
		err := spool.Export(slot, func(r spool.Record) error {
			if !yield(decodeSpooled(r.Data)) {
				return errStop
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStop) {
			yield(spooled{}, err)
		}
	}
}
