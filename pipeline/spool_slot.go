package pipeline

import (
	"errors"
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
	Server    string `json:"server"`    // that its events are for
	InUse     bool   `json:"inUse"`     // a living process has it, and drains it
	Events    int    `json:"events"`    // that stand in it; some of the oldest may be in Redis already
	// Unreadable is how many records are of another version, and stay.
	Unreadable int        `json:"unreadable"`
	Bytes      int64      `json:"bytes"`
	Oldest     *time.Time `json:"oldest"` // when the oldest of them was accepted
}

// SpoolSlots describes the slots in a folder of spools. It takes none of them and changes nothing.
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
		infos, err := spool.List(filepath.Join(dir, n.Name()))
		if err != nil {
			return slots, err
		}
		for _, info := range infos {
			s := SpoolSlot{Dir: info.Dir, Namespace: n.Name(), Server: info.Server, InUse: info.InUse, Bytes: info.Bytes}
			for record, err := range spoolRecords(info.Dir) {
				if errors.Is(err, errSpoolRecord) {
					s.Unreadable++
					continue
				}
				if err != nil {
					return slots, err
				}
				if s.Oldest == nil && record.discarded == 0 {
					at := record.at
					s.Oldest = &at
				}
				s.Events += len(record.events)
			}
			slots = append(slots, s)
		}
	}
	return slots, nil
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
				if !yield(b.decode(record.stream, e.message.Entry(redisstream.ID{})).Event, nil) {
					return
				}
			}
		}
	}
}

// SpoolServer is what SpoolSlot.Server says of slots that a bus with this configuration drains.
func SpoolServer(cfg Config) string { return (&Bus{cfg: cfg}).server() }

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

// AssignSpool makes a slot that no living process has one of another Redis, see SpoolServer: that one has another address now.
func AssignSpool(slot, server string) error { return spool.Assign(slot, server) }

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
