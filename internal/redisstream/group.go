package redisstream

import "time"

// Consumer is one running instance in a group.
type Consumer struct{ Group, Name string }

// Writer marks an append: a repetition with the same name and sequence stores nothing and is answered with what the first one
// stored. A writer has one append per stream under way at a time, and its sequence grows by 1 with each.
type Writer struct {
	Name string
	Seq  uint64
}

// Ref names an entry that was delivered to a group: in the stream itself or in the lane of the group.
type Ref struct {
	Stream string
	Lane   bool
	Spool  bool // in no log yet, but in the spool of the process: ID.MS is the number of the record
	ID     ID   // in the stream or in the lane
}

// Delivered is an entry that a consumer holds. Gone means that it is pending, but its payload was trimmed or deleted.
type Delivered struct {
	Ref
	Entry   Entry
	Claimed bool // taken over from another consumer
	Count   int  // of a claimed one, or one of Held: how often it was delivered, as Suspect counts
	Gone    bool
}

// Suspect is a delivery that was taken over from a dead consumer, and how often it was delivered before.
type Suspect struct {
	Ref
	Count int
}

// Most bounds what one step brings. A step that brings anything brings at least one entry.
type Most struct{ Entries, Bytes int }

// Join asks for a place in the group of one stream.
type Join struct {
	Stream   string
	From     ID       // where the group starts if it is made now: behind this ID
	FromEnd  bool     // instead: behind the last entry
	Patterns []string // to be added to what the group takes
}

// Joined is the answer to Join.
type Joined struct {
	Patterns Patterns
	Made     bool // the group was made now
	From     ID   // then: the ID behind which it begins
	Paused   string
}

// Patterns is what a group takes of one stream, with a version that changes with it.
type Patterns struct {
	Set     []string
	Version int64
}

// Failure is that of a handler, as the record of its group counts it: why, and a hash of the event. The
// zero value is none.
type Failure struct{ Print, Event string }

// Retry is a delivery to be made again: a copy goes to the lane, or to the deferred set until the delay
// has passed, and the original is acknowledged, in one step.
type Retry struct {
	Ref
	Message Message
	Delay   time.Duration
	Failure Failure
}

// Wait is a delivery that waits for a consumer which handles its type.
type Wait struct {
	Ref
	Type    string
	Message Message
}

// Forget takes a pattern away from what a group takes.
type Forget struct {
	Pattern string
	Default []string // what a consumer takes that names no patterns
	DryRun  bool     // only say what would be done
}

// Forgotten is the answer to Forget.
type Forgotten struct {
	Result   ForgetResult
	Consumer string   // of StillHandled and NotSaidYet
	Patterns Patterns // what the group takes now
}

// ForgetResult says what became of a Forget.
type ForgetResult int

const (
	Forgot       ForgetResult = iota
	NotTaken                  // it is not among the patterns of the group
	StillHandled              // a live consumer says that it handles the pattern
	NotSaidYet                // a live consumer has not said yet what it handles
	NothingElse               // the group takes nothing else
)

// Burial is a delivery to be given up: its entry goes to the dead letters, and the original is acknowledged, in one step.
type Burial struct {
	Ref
	Original ID      // of the event in the stream
	Message  Message // what is buried where the original is gone
	Report   string  // what happened, for those who read the dead letters
	Failure  Failure
}

// Bounds limits the dead letters of a group. Older ones are dropped, and counted.
type Bounds struct {
	Length int64
	Age    time.Duration
}

// Copy is an event to be put into the lane of a group.
type Copy struct {
	Dead    ID // the dead letter that it is made of and that goes in the same step; zero for none
	Message Message
}

// Skip is a delivery that its group does not take.
type Skip struct {
	Ref
	Type string // of the event
}

// Settled says what became of a step that settles a delivery.
type Settled int

const (
	Done      Settled = iota
	LeaseLost         // the delivery was no longer pending with this consumer; nothing was done
	Full              // the lane or the deferred set is at its bound; nothing was done
	Changed           // the group's patterns are not those that the caller looked at; nothing was done
	Unknown           // no answer came, or an error: it may have been done
)

// Say is what a consumer says with its beat.
type Say struct {
	About string // of itself, for reports; empty: nothing new
	Idle  bool   // it has free places, and nothing that waits for one
}

// Peer is another consumer of the group and its last sign of life: its beat, in milliseconds of the
// server's clock, which are odd where the peer was idle. A peer that has left has the beat Left.
type Peer struct {
	Name string
	Beat int64
}

// IsIdle reports whether the peer had free places when it beat last.
func (p Peer) IsIdle() bool { return p.Beat%2 == 1 }

// Left is the beat of a consumer that has left: what it still holds may be taken over at once.
const Left int64 = 0

// Beat is the answer to a sign of life.
type Beat struct {
	Run      string // changes when the server restarts or fails over
	Patterns Patterns
	Peers    []Peer
	NextDue  time.Duration // until the next deferred delivery is due; negative: none is deferred
	Waiting  int64         // events that wait for a consumer of their type
	Full     bool          // no more may wait for one
	Paused   string        // what is written about the pause of the group; empty: it is not paused
	Failing  bool          // something has failed within the last minute, or so: Flow says more
}

// Flow is what the consumers of a group have settled of one stream within the last minute, as far as it was
// after something had failed; the zero value where nothing has.
type Flow struct {
	Age  time.Duration // since something failed first
	Rows []FlowRow
}

// Share is what a consumer adds to the record of its group.
type Share struct {
	Handled int64 // deliveries, since it said so last
	Anew    bool  // what the record says of the consumer is to be forgotten first
	Sum     bool  // the rows are asked for
}

// FlowRow is how many events one consumer has settled with one result.
type FlowRow struct {
	Consumer string
	Print    string // of the failure, or Handled
	Events   int64
}

// Handled stands in place of a fingerprint for deliveries that were handled.
const Handled = "+"

// StreamInfo is what a stream looks like now.
type StreamInfo struct {
	Exists       bool
	Length       int64
	First, Last  ID // of the entries that are kept; Last is the last ID ever generated
	EntriesAdded int64
}

// GroupInfo is what a group of a stream looks like now.
type GroupInfo struct {
	Name          string
	Alive         int // consumers with a fresh beat
	Consumers     int // consumers that the server knows
	Pending       int64
	OldestPending ID // zero: none
	LastDelivered ID
	Lag           int64 // entries behind LastDelivered; -1: unknown
	Deferred      int64 // those that wait for a consumer of their type included
	Waits         int64 // events that wait for a consumer of their type
	Lane          int64
	Dead          int64
	Lost          int64 // entries that went before the group handled them; -1: unknown
	DeadLost      int64 // dead letters that were dropped by their bounds
	Frontier      ID    // as last recorded: everything up to it is settled
	Paused        string
	Members       []Member
	Patterns      []string
	Unhandled     map[string]int64     // events acked outside of the patterns, by type
	Waiting       map[string]time.Time // types that wait for a consumer, since when
	Died          Death                // the last consumer that was taken over from because it had died
}

// Death is that of a consumer whose deliveries were taken over.
type Death struct {
	At    time.Time // when they were; zero: none has died
	Name  string
	Taken int64 // how many deliveries
}

// Member is one consumer of a group.
type Member struct {
	Name    string
	Beat    int64  // of the server's clock, in ms; Left: it has left; -1: other software, which does not beat
	Alive   bool   // its beat is fresh
	Pending int64  // deliveries that it holds, of the lane as well
	About   string // what it says of itself
}
