// Package group is one running instance in a consumer group: it reads, hands out, settles, beats, and takes
// over. It knows the log, and not the bus that it runs in: see Host.
//
// # One delivery
//
// A Holding is one entry that the consumer holds, with one state that only holdings.move changes (holding.go):
//
//	read ─► paused, subject, aside, dangerous, turn ─► placed ─► handed ─► running ─► ended ─► gone
//	read ─► others ─► gone
//
// holdings.go decides which of them gets the next place, and how many more entries may be read. An entry that
// was lost and comes back is another Holding: the first one can't run any more. What the consumer holds is
// known by its Ref, so that an entry that comes twice, by a take-over or from its own pending list, is never
// handled twice at once. A Holding is part of the delivery that an Outlet makes of it, in one piece of memory.
//
// # One stream
//
// A membership is the consumer's place in the group of one stream (membership.go). It has a beat (beat.go),
// a pause (pausing.go, a pure machine) and a record of failures (breaker.go) of its own, so that no stream
// can stop another one. A consumer that fails while its siblings work stops itself (sick.go), by the same
// machine as a pause.
//
// # The loops
//
//	readLoop     reads what is new, as much as there is room for (one per 64 streams)
//	twinLoop     keeps a second read under way where round trips are long
//	deliverLoop  decides what is handled here, and hands deliveries out
//	settleLoop   acknowledges what was handled, as many IDs in one command as there are
//	beatLoop     says that this consumer lives, has moved what is due, finds out who is dead (one per stream)
//	passOnLoop   passes on what is not handled here (one per stream, while there is any)
//	takeOver     takes from the dead, and what waits for a handler that is here (while there is any)
//	raise        raises the counts of suspects before they run (while there are any)
//	leaseLoop    finds out what was taken away, and takes from consumers of other software
//	fallbackLoop handles what is in the spool while Redis is away, where the Host has a Spool
//	discoverLoop finds streams that are made later, where a pattern follows all of them
//
// # What is not obvious
//
// Each step that settles is atomic in the log, and does nothing to a delivery that this consumer has lost. So
// a result may be written again as often as it takes. A reply that was lost leaves entries with a consumer that
// does not know of them: reconcile (reader.go) finds them. Nobody is taken for dead while the server stalls
// (peers.go), and whoever stood still begins nothing before it knows what it still has (beat.go). Only
// deliveries that were running when their process died count as crashes (suspect.go).
package group
