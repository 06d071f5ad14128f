// Package pipeline is the bus: events in, kept, delivered.
//
//	bus, err := pipeline.OpenFromEnv(ctx)
//	event, err := BookingCreated.New(Booking{Guest: "Ada", Total: 120})
//	receipt, err := bus.Publish(ctx, event)
//
// An event that was accepted is never lost silently. It is delivered, or a group gave up on it and says so, or its loss is
// counted, named and shown; and every receipt says how safe the event is at that moment (Durability).
//
// # Words
//
// An event's type is a dotted name, booking.created. Its first segment names its stream, an ordered log: one Redis Stream
// key, or a bounded list in memory. A position is the place of an event in its stream. A group is the instances of one
// service that share the work: each event goes to one of them, at least once. A subscription is an instance's own copy of
// the events of some types. A delivery is one attempt to hand one event to one group.
//
// # The way of an event
//
//	Publish ─► stamp, validate, hooks ─► writer: queue, flush ─► append script ─► stream
//	                                                                                │
//	           ┌────────────────────────────────┬───────────────────────────────────┤
//	     History (history_read.go)     tail, one per stream (tail.go)      reader of a group
//	           │                                │ gochannel                         │ holdings
//	         Record                      subscriptions                    deliver ─► handler ─► settle
//
// Publish queues events in front of a few writers; a subject always takes the same writer, which has one append under way
// at a time, so events of one subject from one caller are stored in the order of the calls. The append script knows the
// writer's last sequence number: a repetition after a lost reply stores nothing and gets the same positions.
//
// A consumer of a group (internal/group) reads as much as it has room for, hands deliveries out one by one through
// a Watermill channel, and writes their results back, as many in one command as there are. What a group takes is one
// set of patterns that its instances share. An event inside of it that an instance has no handler for waits for a sibling and
// is never acknowledged away; one outside of it is acknowledged and counted.
//
// Each consumer beats every 2 s. A peer whose beat has stood still for three of our own is dead, and what it held is taken
// over. A consumer that stops lets its handlers finish, then hands back what is left at no cost of an attempt.
//
// # What becomes of a delivery
//
//	                     ┌─────────── deferred set: until it is due ◄──────────┐
//	                     ▼                                                     │ error, panic, timeout: one attempt more
//	stream ─► pending, held by a consumer ─► handler ─► nil: acknowledged      │ RetryAfter: not even that
//	 lane  ─►   │    ▲                            │                            │
//	            │    └── a peer takes it over      └─► failed ─────────────────┤
//	            │        from the dead: a suspect                              │ Permanent, not decodable, attempts used up,
//	            │                                                              ▼ or too many crashes
//	            └─► nobody here handles its type: waits for a sibling      dead letter ─► requeued by the lane, or discarded
//
// Each arrow is one script on one slot, which checks that the delivery is still pending with this consumer, writes the copy, and
// acknowledges last. Attempt = failures + crashes + 1. A delivery that is taken over from the dead may be what they died
// of: its count is raised just before its handler starts, so that only what was running moves towards the crash limit.
//
// A handler that runs longer than Policy.Timeout has failed, and keeps its delivery until it returns. A
// group of which nearly everything fails for one reason pauses, and tries one delivery from
// time to time. A consumer that fails while its siblings do not stops itself. A
// delivery that a peer has taken over, since this process stood still, is given up with
// ErrLeaseLost.
//
// Redis may forget: each beat records the frontier of the group, up to which everything is settled, and a group that is gone is made again
// there. What comes again then and was handled here is recognised by its identity.
//
// # Two transports
//
// Redis (internal/redisstream) and memory (internal/memstream) stand behind one interface, transport, and pass the same tests.
// Without Redis the bus is in memory: same groups, same settlement, same history, and durability Volatile. With Redis the
// memory keeps the recent events of this instance, and events published LocalOnly.
//
// # State
//
//	volatile      no Redis is configured
//	durable       events go to Redis
//	unavailable   Redis is away, and nothing else may keep events: Publish fails with ErrUnavailable
//
// One failed command is not an outage: a publish that meets one is repeated, up to Config.OutageAfter. Three checks in a row
// that fail, over at least 2 s, make the state unavailable; one that succeeds ends it (link.go). A check is a command that a
// replica, or a server that is loading, refuses.
package pipeline
