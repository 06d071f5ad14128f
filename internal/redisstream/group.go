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
	About    string        // of itself, for reports; empty: nothing new
	Next     time.Duration // in which its next beat is due; zero: BeatEvery
	Idle     bool          // it has free places, and nothing that waits for one
	Holds    bool          // it holds something of the stream
	Patterns int64         // the version of the group's patterns that it knows
	Read     ID            // the last entry of the stream that it was given; zero: none
	AllPeers bool          // all peers are asked for, not only those whose next beat is due within BeatEvery
}

// BeatEvery is in which time a consumer beats again that holds something, or has just joined.
const BeatEvery = 2 * time.Second

// Peer is another consumer of the group and its last sign of life: its beat says, in milliseconds of
// the server's clock, when the next one is due, and with its last two bits what the peer did. A peer
// that has left has the beat Left.
type Peer struct {
	Name string
	Beat int64
	Due  time.Duration // in which the next beat is due; negative: it is late
}

const (
	beatIdle  = 1 // had free places, and nothing that waited for one
	beatHolds = 2 // held something of the stream
	beatBits  = 4
)

// IsIdle reports whether the peer had free places when it beat last.
func (p Peer) IsIdle() bool { return p.Beat%beatBits&beatIdle != 0 }

// Holds reports whether the peer held something of the stream when it beat last.
func (p Peer) Holds() bool { return p.Beat%beatBits&beatHolds != 0 }

// bits is what the last bits of the beat say.
func (s Say) bits() (bits int64) {
	if s.Idle {
		bits |= beatIdle
	}
	if s.Holds {
		bits |= beatHolds
	}
	return bits
}

// BeatDue is the beat of a consumer that says so when its next one is due at the time in milliseconds.
func BeatDue(ms int64, say Say) int64 { return ms - ms%beatBits + say.bits() }

// Left is the beat of a consumer that has left: what it still holds may be taken over at once.
const Left int64 = 0

// Beat is the answer to a sign of life.
type Beat struct {
	Run       string   // changes when the server restarts or fails over
	Patterns  Patterns // without Set where the version is the one that the consumer knows
	Peers     []Peer
	Members   int    // consumers that beat, this one included
	Waiting   int64  // events that wait for a consumer of their type
	Full      bool   // no more may wait for one
	Paused    string // what is written about the pause of the group; empty: it is not paused
	Failing   bool   // something has failed within the last minute, or so: Flow says more
	Unknown   bool   // nothing stands there of what the consumer says of itself
	Pending   int64  // deliveries that are pending with this consumer, in the stream and the lane
	Strangers bool   // something is pending with a consumer that does not beat
}

// Promoted says which deferred deliveries were due and are in the lane by now.
type Promoted struct {
	Moved int
	Next  time.Duration // in which the next one is due; negative: none is deferred, or that is not known
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
	SeenLost     int64 // keys of messages that are appended once, which had to be forgotten before their time
}

// AddedSince is how many of the entries that are kept were added since then, by the server's clock. Where
// some are older, that is what an even flow would have added: until the last one came.
func (s StreamInfo) AddedSince(since time.Time) int64 {
	from, first, last := since.UnixMilli(), int64(s.First.MS), int64(s.Last.MS)
	switch {
	case s.Length == 0 || last < from:
		return 0
	case first >= from:
		return s.Length
	}
	return int64(float64(s.Length) * float64(last-from) / float64(last-first))
}

// GroupInfo is what a group of a stream looks like now.
type GroupInfo struct {
	Name          string
	Alive         int // consumers with a fresh beat
	Consumers     int // consumers that the server knows
	Pending       int64
	OldestPending ID        // zero: none
	Oldest        []Pending // the OldestListed oldest pending of the stream by ID, and as many of the lane
	LastDelivered ID
	Lag           int64 // entries behind LastDelivered; -1: unknown
	// Since is when the group was made, or resumed last: before, it could get nothing. Zero: not known.
	Since time.Time
	// Undelivered is for how long the first entry behind LastDelivered has stood in the stream, or since
	// then, by the server's clock; 0: there is none, or it is not known.
	Undelivered time.Duration
	Deferred    int64 // those that wait for a consumer of their type included
	Waits       int64 // events that wait for a consumer of their type
	Lane        int64
	Dead        int64
	// NewDead counts the dead letters since NewDeadSince, by the server's clock: of an hour, or less where
	// there are more than MaxNewDead, or they are large.
	NewDead      int64
	NewDeadSince time.Time
	Lost         int64 // entries that went before the group handled them; -1: unknown
	DeadLost     int64 // dead letters that were dropped by their bounds
	Frontier     ID    // as last recorded: everything up to it is settled
	Paused       string
	Members      []Member
	Patterns     []string
	Unhandled    map[string]int64     // events acked outside of the patterns, by type
	Waiting      map[string]time.Time // types that wait for a consumer, since when
	Died         Death                // the last consumer that was taken over from because it had died
}

// MaxNewDead is the most dead letters of a group that a report counts as new.
const MaxNewDead = 100

// newDeadWithin is for how long a dead letter is new.
const newDeadWithin = time.Hour

// Death is that of a consumer whose deliveries were taken over.
type Death struct {
	At    time.Time // when they were; zero: none has died
	Name  string
	Taken int64 // how many deliveries
}

// OldestListed is how many pending entries of a stream, and of its lane, a report looks at: those with
// the lowest IDs. An entry that stays pending comes to be among them, since those before it are settled.
const OldestListed = 10

// Pending is an entry that is delivered to a consumer and not settled.
type Pending struct {
	Ref
	Consumer string
	// Idle is for how long the consumer has it, by the server's clock: since it was delivered, taken over,
	// or made to look fresh, which a consumer does with what it holds long while the group has consumers of
	// other software (see Renew), and with a suspect just before its handler begins (see Raise).
	Idle time.Duration
}

// Member is one consumer of a group.
type Member struct {
	Name    string
	Beat    int64  // see Peer; -1: other software, which does not beat
	Alive   bool   // its next beat is not late
	Pending int64  // deliveries that it holds, of the lane as well
	About   string // what it says of itself
}
