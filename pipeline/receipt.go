package pipeline

import "fmt"

// Durability says how safe an event is at this moment. The values are ordered: a higher one is safer.
type Durability int

// An event is *accepted* when its durability is Spooled or better. Volatile is not accepted, and the answer says so.
const (
	Refused    Durability = iota // nowhere: the outcome carries the error
	Unknown                      // the server may or may not have it: no reply came before the caller gave up
	Volatile                     // in the memory of this process only
	Spooled                      // fsynced to the spool of this process, on its way to Redis
	Stored                       // in the Redis Stream
	Replicated                   // in the Redis Stream and acknowledged by the replicas that were asked for
)

var durabilityNames = [...]string{"refused", "unknown", "volatile", "spooled", "stored", "replicated"}

// String returns the lower-case name that the HTTP API, the command line and the metrics use.
func (d Durability) String() string {
	if d < 0 || int(d) >= len(durabilityNames) {
		return fmt.Sprintf("durability(%d)", int(d))
	}
	return durabilityNames[d]
}

// MarshalText makes a Durability its name in JSON.
func (d Durability) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// Outcome is what became of one published event.
type Outcome struct {
	ID         string
	Type       string
	Durability Durability
	Position   Position // where it stands in its stream; empty unless Volatile, Stored or Replicated
	Duplicate  bool     // it was there already, and this call appended nothing
	Replicas   int      // that acknowledged it, when PublishOptions asked for any
	Err        error    // why it is Refused or Unknown; nil otherwise
}

// Receipt is what Publish returns: one outcome per event, in the order of the call. CorrelationID is that of the first
// event, the one which Publish made or took from ctx when the caller gave none.
type Receipt struct {
	Outcomes      []Outcome
	CorrelationID string
}

// Durability is the weakest of the outcomes, Refused for a receipt without any.
func (r Receipt) Durability() Durability {
	if len(r.Outcomes) == 0 {
		return Refused
	}
	weakest := r.Outcomes[0].Durability
	for _, o := range r.Outcomes[1:] {
		weakest = min(weakest, o.Durability)
	}
	return weakest
}
