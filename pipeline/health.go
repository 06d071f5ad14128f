package pipeline

import "time"

// Mode is how the bus was configured.
type Mode string

const (
	ModeLocal  Mode = "local-only" // no Redis: memory of this process only
	ModeHybrid Mode = "hybrid"     // Redis, and what this process keeps itself
	ModeRedis  Mode = "redis-only" // Redis alone
)

// State is what the bus can promise now.
type State string

const (
	StateDurable     State = "durable"     // events go to Redis
	StateSpooling    State = "spooling"    // Redis is away: events go to the spool
	StateDraining    State = "draining"    // Redis is back: the spool is being emptied
	StateVolatile    State = "volatile"    // no Redis configured
	StateUnavailable State = "unavailable" // Redis is away and nothing else may keep events
)

// isAway reports whether Redis takes nothing in this state.
func (s State) isAway() bool { return s == StateUnavailable || s == StateSpooling }

// Health is a report on the bus and on what it stands on; its JSON is that of GET /api/events/health. Numbers that are not known
// are nil, never 0.
type Health struct {
	Status        string              `json:"status"` // healthy, degraded, unhealthy
	Mode          Mode                `json:"mode"`
	State         State               `json:"state"`
	Service       string              `json:"service"`
	Instance      string              `json:"instance"`
	Version       string              `json:"version"`
	UptimeSeconds float64             `json:"uptimeSeconds"`
	Redis         RedisHealth         `json:"redis"`
	Subscriptions SubscriptionsHealth `json:"subscriptions"`
	Published     PublishedHealth     `json:"published"`
	Spool         *SpoolHealth        `json:"spool"` // nil where there is none
	Streams       []StreamHealth      `json:"streams"`
	Lost          []Loss              `json:"lost"` // what this process has noticed in the last 24 hours, the oldest first; at most 20
	Problems      []Problem           `json:"problems"`
}

// The three values of Health.Status.
const (
	StatusHealthy   = "healthy"
	StatusDegraded  = "degraded"
	StatusUnhealthy = "unhealthy"
)

// RedisHealth is what is known of the server.
type RedisHealth struct {
	Configured      bool       `json:"configured"`
	Connected       bool       `json:"connected"`
	LatencyMS       *float64   `json:"latencyMs"`
	Version         string     `json:"version"`
	Role            string     `json:"role"`
	Persistence     string     `json:"persistence"` // none, rdb, aof-everysec, aof-always, aof-no
	MaxmemoryPolicy string     `json:"maxmemoryPolicy"`
	Since           *time.Time `json:"since"` // of the present connected or disconnected spell
	LastError       string     `json:"lastError"`
}

// SubscriptionsHealth counts what this instance listens with.
type SubscriptionsHealth struct {
	Local  int `json:"local"`  // subscriptions to local events only
	Redis  int `json:"redis"`  // subscriptions that follow Redis
	Groups int `json:"groups"` // consumers in groups
}

// PublishedHealth counts the events that this instance published since it started, by outcome.
type PublishedHealth struct {
	Total    uint64 `json:"total"`
	Stored   uint64 `json:"stored"`
	Spooled  uint64 `json:"spooled"`
	Volatile uint64 `json:"volatile"`
	Refused  uint64 `json:"refused"` // unknown outcomes included
}

// SpoolHealth is the fill of the spool.
type SpoolHealth struct {
	Events        int64      `json:"events"`
	Bytes         int64      `json:"bytes"`
	CapacityBytes int64      `json:"capacityBytes"`
	Oldest        *time.Time `json:"oldest"`
	// Opening is how many slots of dead processes are being read. What stands in them is not in Events yet.
	Opening int `json:"opening"`
}

// StreamHealth is one stream and its groups.
type StreamHealth struct {
	Name   string   `json:"name"`
	Length int64    `json:"length"`
	First  Position `json:"first"`
	Last   Position `json:"last"`
	Lost   *int64   `json:"lost"`
	// SeenLost is how many identities and keys of events that were published once had to be forgotten
	// before their time, ever: a repetition of such a publish would have been stored again.
	SeenLost int64         `json:"seenLost"`
	Groups   []GroupHealth `json:"groups"`
}

// GroupHealth is one group of a stream.
type GroupHealth struct {
	Name      string `json:"name"`
	Consumers int    `json:"consumers"` // that are alive
	Pending   int64  `json:"pending"`   // delivered and not settled yet
	Lag       *int64 `json:"lag"`       // stored and not delivered yet
	// OldestUnackedSeconds is for how long a consumer has held what was delivered longest ago and is not
	// settled, by the clock of Redis: the longest of the 10 oldest pending entries of the stream, and of the
	// 10 oldest of what came again (retries and the like). A take-over begins anew. Where the group has
	// consumers of other software too, it may be too small: what Millrace holds long then is made to look
	// fresh. nil: nothing is pending.
	OldestUnackedSeconds *float64 `json:"oldestUnackedSeconds"`
	// OldestUndeliveredSeconds is for how long the first event that no consumer has got has stood in the
	// stream, by the clock of Redis. nil: there is none, or it is not known.
	OldestUndeliveredSeconds *float64       `json:"oldestUndeliveredSeconds"`
	Deferred                 int64          `json:"deferred"` // waiting for their next attempt
	Dead                     int64          `json:"dead"`
	Lost                     *int64         `json:"lost"`
	Paused                   *Pause         `json:"paused,omitempty"`
	Patterns                 []string       `json:"patterns"`
	Unhandled                []UnhandledRow `json:"unhandled,omitempty"` // acked since they are outside of the patterns, by type
	Waiting                  []WaitingRow   `json:"waiting,omitempty"`   // inside of the patterns, but no consumer here handles them
}

// UnhandledRow counts the events of one type that a group acked without handling them, since they match none of its patterns.
type UnhandledRow struct {
	Type  string `json:"type"`
	Count int64  `json:"count"`
}

// WaitingRow names a type of which events wait for a consumer that handles it.
type WaitingRow struct {
	Type  string    `json:"type"`
	Since time.Time `json:"since"`
}

// Problem is something that an operator should know of, with a way out where there is one.
type Problem struct {
	Code     string `json:"code"`
	Severity string `json:"severity"` // warning, error
	Text     string `json:"text"`
	Hint     string `json:"hint"`
}

// The two values of Problem.Severity.
const (
	SeverityWarning = "warning"
	SeverityError   = "error"
)
