package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/rishi-platform/millrace/internal/group"
	"github.com/rishi-platform/millrace/internal/pattern"
	"github.com/rishi-platform/millrace/internal/redisstream"
)

const (
	// healthTimeout bounds what a report asks Redis: one that is away must not make health slow.
	healthTimeout = 2 * time.Second
	// waitingProblem is how long an event may wait for its handler before that is a problem: one that is there fetches it within a
	// beat or two.
	waitingProblem = time.Minute
	// diedProblem is for how long it is a problem that a consumer has died.
	diedProblem = 10 * time.Minute
	// silentProblem is how long a consumer of this process may go without a beat at a stream before that is a problem: by then
	// peers have taken it for dead.
	silentProblem = 10 * time.Second
)

// Health reports on the bus and on what it stands on. It asks Redis and takes at most about 2 s; what it can't find out is nil or
// absent, and said in Problems.
func (b *Bus) Health(ctx context.Context) Health {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	h := Health{
		Status:        StatusHealthy,
		Mode:          b.Mode(),
		State:         b.State(),
		Service:       b.cfg.Service,
		Instance:      b.instance,
		Version:       b.cfg.Version,
		UptimeSeconds: time.Since(b.started).Seconds(),
		Published:     b.published.health(),
		Subscriptions: b.listening(),
		Streams:       []StreamHealth{},
		Problems:      []Problem{},
	}
	reachable := true
	if b.redis != nil {
		reachable = b.redisHealth(ctx, &h)
	}
	sick := b.sickProblems(&h)
	stuck := b.stuckProblems(&h)
	if reachable {
		if err := b.streamsHealth(ctx, &h, sick, stuck); err != nil {
			h.problem("streams-unknown", SeverityWarning, fmt.Sprintf("streams can't be described: %v", err), "")
		}
	}
	if reachable {
		b.beatProblems(&h)
	}
	if b.spool != nil {
		b.spool.health(&h)
	}
	b.losses.health(&h)
	b.refusals.health(&h)
	if b.State() == StateUnavailable {
		h.problem("redis-unavailable", SeverityError, "redis is away and nothing else may keep events: publishing is refused", hintAway)
	}
	if b.isClosed() {
		h.problem("shutting-down", SeverityWarning, "the bus is being closed", "")
	}
	h.conclude()
	return h
}

// redisProblem is a problem whose cause is an error of Redis, with the way out that it has.
func (h *Health) redisProblem(code, severity, text string, err error) {
	var of *RedisError
	hint := ""
	if errors.As(err, &of) {
		bare := *of
		bare.Hint, hint = "", of.Hint
		err = &bare
	}
	h.problem(code, severity, text+err.Error(), hint)
}

func (h *Health) problem(code, severity, text, hint string) {
	h.Problems = append(h.Problems, Problem{Code: code, Severity: severity, Text: text, Hint: hint})
}

// conclude sets the status by the rules of DESIGN §9.
func (h *Health) conclude() {
	for _, p := range h.Problems {
		if p.Severity == SeverityError && h.Status == StatusHealthy {
			h.Status = StatusDegraded
		}
	}
	switch h.State {
	case StateSpooling, StateDraining:
		if h.Status == StatusHealthy {
			h.Status = StatusDegraded
		}
	case StateUnavailable:
		h.Status = StatusUnhealthy
	}
}

func (b *Bus) listening() SubscriptionsHealth {
	b.mu.Lock()
	defer b.mu.Unlock()
	var s SubscriptionsHealth
	for _, sub := range b.subscriptions {
		if sub.config.LocalOnly || b.redis == nil {
			s.Local++
		} else {
			s.Redis++
		}
	}
	s.Groups = len(b.consumers)
	return s
}

// redisHealth describes the server and reports whether it answers.
func (b *Bus) redisHealth(ctx context.Context, h *Health) bool {
	l := b.link
	l.mu.Lock()
	since, state := l.since, l.state
	l.mu.Unlock()
	h.Redis = RedisHealth{Configured: true, Connected: l.isConnected(), Since: &since}
	if err := l.trouble(); err != nil {
		h.Redis.LastError = err.Error()
	}
	if state.isAway() {
		return false
	}
	shardsAway := b.shardProblems(h)
	if streams := b.redis.Unregistered(); len(streams) > 0 {
		h.problem("streams-unregistered", SeverityError, fmt.Sprintf("%d streams have events and are not in the registry yet (%s): who follows all streams does not find them",
			len(streams), strings.Join(streams[:min(len(streams), maxNamed)], ", ")), "is the shard of the registry up?")
	}
	server, err := b.redis.Server(ctx)
	if err != nil && shardsAway { // it may be one of them that was asked
		return true
	}
	if err != nil {
		l.suspect()
		h.Redis.Connected, h.Redis.LastError = false, err.Error()
		h.redisProblem("redis-error", SeverityError, "redis does not answer as it should: ", b.redisError("describe", "", err))
		return false
	}
	took, err := b.redis.Ping(ctx)
	if !shardsAway || redisstream.Classify(err) != redisstream.Away {
		b.takesEvents(h, err)
	}
	latency := float64(took.Microseconds()) / 1000
	h.Redis.LatencyMS = &latency
	h.Redis.Version, h.Redis.Role = server.Version, server.Role
	h.Redis.Persistence, h.Redis.MaxmemoryPolicy = server.Persistence, server.MaxmemoryPolicy
	if server.Persistence == "none" {
		h.problem("redis-no-persistence", SeverityWarning, "redis keeps nothing on disk: a restart loses every event", "set appendonly yes")
	}
	if p := server.MaxmemoryPolicy; len(p) > 7 && p[:7] == "allkeys" {
		h.problem("redis-eviction", SeverityError, "maxmemory-policy "+p+" may evict whole streams with their groups", "set maxmemory-policy noeviction")
	}
	return true
}

// shardProblems names the shards that are away while others are not, and which streams that concerns.
func (b *Bus) shardProblems(h *Health) (away bool) {
	refusals := b.link.refusals()
	for _, shard := range slices.Sorted(maps.Keys(refusals)) {
		h.redisProblem(problemRefused, SeverityError, fmt.Sprintf("shard %s of the cluster takes no events: ", shard), b.redisError("publish", "", refusals[shard]))
	}
	look := b.look()
	if look.partly == nil {
		return false
	}
	what := "their events are refused"
	if b.spool != nil {
		what = "their events are kept in the spool"
	}
	for _, shard := range slices.Sorted(maps.Keys(*look.partly)) {
		var streams []string
		for _, stream := range b.confirmed.names() {
			if b.redis.ShardOf(stream) == shard {
				streams = append(streams, stream)
			}
		}
		named := "no stream that this process has published to is there"
		if len(streams) > 0 {
			named = "streams " + strings.Join(streams[:min(len(streams), maxNamed)], ", ")
			if more := len(streams) - maxNamed; more > 0 {
				named += fmt.Sprintf(" and %d more", more)
			}
			named += ": " + what
		}
		h.problem("shard-away", SeverityError, fmt.Sprintf("shard %s of the cluster is away since %s; %s", shard, (*look.partly)[shard].UTC().Format(time.RFC3339), named), hintAway)
	}
	return true
}

// takesEvents says what the answer to an append means that would store nothing.
func (b *Bus) takesEvents(h *Health, err error) {
	if err == nil {
		return
	}
	class := redisstream.Classify(err)
	if b.cfg.NoPublish && redisstream.IsRightsRefused(err) {
		h.redisProblem("publish-unknown", SeverityWarning, "whether redis takes events can't be told with the rights of this user: ", b.redisError("publish", "", err))
		return
	}
	h.Redis.LastError = err.Error()
	code := problemRefused
	switch away := class == redisstream.Away || class == redisstream.ReadOnly; {
	case away && b.cfg.NoPublish: // it is not the way to read that is watched
		code, h.State = "redis-unavailable", StateUnavailable
	case away: // maybe: link finds out
		code = "redis-error"
		b.link.suspect()
	default:
		h.Status = StatusUnhealthy
	}
	h.redisProblem(code, SeverityError, "redis takes no events: ", b.redisError("publish", "", err))
}

// beatProblems names the streams that consumers of this process can't read, or can't beat at, though
// Redis answers.
func (b *Bus) beatProblems(h *Health) {
	for _, c := range b.consuming() {
		for _, t := range c.Troubles(silentProblem) {
			code, what := "consumer-hindered", "can't "+t.What+" at stream "+t.Streams[0]
			switch t.What {
			case group.TroubleRead:
				code, what = "group-unread", "can't read "+strings.Join(t.Streams, ", ")
			case group.TroubleBeat:
				code, what = "consumer-stalled", "takes nothing of stream "+t.Streams[0]
			}
			h.redisProblem(code, SeverityError, fmt.Sprintf("group %s of this process %s since %s: ",
				c.Group(), what, t.Since.UTC().Format(time.RFC3339)), t.Err)
		}
	}
}

// sickProblems names the consumers of this process that have stopped themselves, and returns their names.
func (b *Bus) sickProblems(h *Health) map[string]bool {
	known := map[string]bool{}
	for _, c := range b.consuming() {
		if sick := c.Sick(); sick != nil {
			known[c.Name()] = true
			h.sickProblem("consumer "+c.Name()+" of this process", c.Group(), (*Sick)(sick))
		}
	}
	return known
}

func (h *Health) sickProblem(consumer, group string, sick *Sick) {
	h.problem("consumer-sick", SeverityError, fmt.Sprintf("%s has stopped itself in group %s at %s: %s",
		consumer, group, sick.Since.UTC().Format(time.RFC3339), sick.Reason),
		"mend or restart that process; it tries one delivery from time to time, and goes on after one success")
}

// sickMembers names the consumers of a group that say of themselves that they are sick, each once however
// many streams it has.
func (h *Health) sickMembers(g redisstream.GroupInfo, known map[string]bool) {
	for _, m := range g.Members {
		if about := aboutOf(m); about != nil && about.Sick != nil && m.Alive && !known[m.Name] {
			known[m.Name] = true
			h.sickProblem("consumer "+m.Name+" on "+about.Host, g.Name, about.Sick)
		}
	}
}

func (b *Bus) streamsHealth(ctx context.Context, h *Health, sick map[string]bool, stuck map[redisstream.Ref]bool) error {
	streams, err := b.log.Streams(ctx)
	if err != nil {
		return err
	}
	var unknown []string
	var cause error
	versions := map[string]bool{} // groups that were told to have several
	for _, d := range b.log.Describe(ctx, streams) {
		err := b.redisError("describe stream", d.Stream, d.Err)
		switch {
		case errors.Is(err, ErrDenied):
			h.redisProblem("stream-refused", SeverityError, "", err)
		case err != nil:
			unknown = append(unknown, d.Stream)
			cause = err
		}
		if err != nil && !d.Info.Exists {
			continue
		}
		s := StreamHealth{Name: d.Stream, Length: d.Info.Length, Groups: []GroupHealth{}}
		if s.SeenLost = d.Info.SeenLost; s.SeenLost > 0 {
			h.problem("keys-forgotten", SeverityWarning, fmt.Sprintf("stream %s has forgotten %d identities and idempotency keys before their time: a repetition of those events would be stored again",
				d.Stream, s.SeenLost), "spread what is published with Once or a key over more streams, or publish less of it so")
		}
		if d.Info.Length > 0 {
			s.First, s.Last = positionOf(d.Info.First), positionOf(d.Info.Last)
		}
		for _, g := range d.Groups {
			s.Groups = append(s.Groups, groupHealth(g))
			h.groupProblems(d.Stream, g)
			h.sickMembers(g, sick)
			h.pendingProblem(d.Stream, g, b.hungAfter, b.cfg.Health.PendingWarning, stuck)
			h.lagProblem(d.Stream, g, b.cfg.Health)
			h.deadProblem(d.Stream, d.Info, g, b.cfg.Health)
			h.versionsProblem(d.Stream, g, versions)
		}
		h.Streams = append(h.Streams, s)
	}
	if len(unknown) > 0 {
		return fmt.Errorf("%d of %d, or a part of each: %s: %w",
			len(unknown), len(streams), named(unknown), cause)
	}
	return nil
}

// maxNamed is the most streams that a problem names.
const maxNamed = 20

func named(streams []string) string {
	text := strings.Join(streams[:min(len(streams), maxNamed)], ", ")
	if n := len(streams) - maxNamed; n > 0 {
		text += fmt.Sprintf(" and %d more", n)
	}
	return text
}

func groupHealth(g redisstream.GroupInfo) GroupHealth {
	row := GroupHealth{Name: g.Name, Consumers: g.Alive, Pending: g.Pending, Deferred: g.Deferred, Dead: g.Dead, Patterns: g.Patterns, Paused: parsePause(g.Paused)}
	if g.Lag >= 0 {
		row.Lag = &g.Lag
	}
	if g.Lost >= 0 {
		row.Lost = &g.Lost
	}
	for _, p := range g.Oldest {
		if age := p.Idle.Seconds(); row.OldestUnackedSeconds == nil || age > *row.OldestUnackedSeconds {
			row.OldestUnackedSeconds = &age
		}
	}
	if age := g.Undelivered.Seconds(); age > 0 {
		row.OldestUndeliveredSeconds = &age
	}
	for _, t := range slices.Sorted(maps.Keys(g.Unhandled)) {
		row.Unhandled = append(row.Unhandled, UnhandledRow{Type: t, Count: g.Unhandled[t]})
	}
	for _, t := range slices.Sorted(maps.Keys(g.Waiting)) {
		row.Waiting = append(row.Waiting, WaitingRow{Type: t, Since: g.Waiting[t]})
	}
	return row
}

// groupProblems says what an operator should know of a group.
func (h *Health) groupProblems(stream string, g redisstream.GroupInfo) {
	for _, t := range slices.Sorted(maps.Keys(g.Waiting)) {
		if time.Since(g.Waiting[t]) > waitingProblem {
			h.typeWaits(stream, g, t)
		}
	}
	if g.Lost > 0 {
		h.problem("events-lost", SeverityError, fmt.Sprintf("%d events were dropped from stream %s before group %s had handled them", g.Lost, stream, g.Name), "raise the length of the stream, or add workers")
	}
	if g.DeadLost > 0 {
		h.problem("dead-letters-lost", SeverityError, fmt.Sprintf("%d dead letters of group %s of stream %s were dropped by their bounds", g.DeadLost, g.Name, stream), "requeue or discard dead letters in time: millrace dead ls "+stream+" "+g.Name)
	}
	if p := parsePause(g.Paused); p != nil {
		severity := SeverityWarning
		if p.By == PausedByBreaker {
			severity = SeverityError
		}
		h.problem("group-paused", severity, fmt.Sprintf("group %s of stream %s is paused by the %s since %s: %s", g.Name, stream, p.By, p.Since.Format(time.RFC3339), p.Reason), "millrace group resume "+stream+" "+g.Name)
	}
	if g.Lane >= redisstream.GroupBound || g.Deferred-g.Waits >= redisstream.GroupBound {
		h.problem("group-full", SeverityError, fmt.Sprintf("group %s of stream %s has as many deliveries to be tried again as it may have: it takes nothing new", g.Name, stream), "find out why its handlers fail")
	}
	for _, m := range g.Members {
		if m.Beat > 0 && !m.Alive && m.Pending > 0 {
			h.problem("consumer-silent", SeverityError, fmt.Sprintf("consumer %s of group %s of stream %s does not beat, and holds %d deliveries",
				m.Name, g.Name, stream, m.Pending), "its peers take them over within 10 s; if there is none, start a worker of this group")
		}
	}
	if ago := time.Since(g.Died.At); ago < diedProblem {
		h.problem("consumer-died", SeverityWarning, fmt.Sprintf("consumer %s of group %s of stream %s has died; %d deliveries were taken over from it at %s",
			g.Died.Name, g.Name, stream, g.Died.Taken, g.Died.At.UTC().Format(time.RFC3339)), "look into why it has died")
	}
	ours := len(g.Patterns) > 0 // other software does not beat
	if ours && g.Alive == 0 && (g.Pending > 0 || g.Lag > 0 || g.Deferred > 0 || g.Lane > 0) {
		h.problem("group-without-consumer", SeverityWarning, fmt.Sprintf("group %s of stream %s has work and no consumer", g.Name, stream), "start a worker of this group")
	}
}

// typeWaits says that events of a type wait for their handler, and the way out: if no live consumer handles
// the type, maybe none ever will again.
func (h *Health) typeWaits(stream string, g redisstream.GroupInfo, eventType string) {
	text := fmt.Sprintf("events of type %s wait for a consumer of group %s of stream %s that handles them, since %s",
		eventType, g.Name, stream, g.Waiting[eventType].UTC().Format(time.RFC3339))
	for _, m := range g.Members {
		if m.Alive && handledBy(m, eventType) {
			h.problem("type-waits", SeverityError, text, fmt.Sprintf(
				"consumer %s handles them and does not keep up: start more workers, or see what its handlers wait for", m.Name))
			return
		}
	}
	hint := "start the worker that handles this type"
	var forget []string
	for _, p := range g.Patterns {
		if Match(p, eventType) {
			forget = append(forget, "millrace group forget-type "+stream+" "+g.Name+" '"+p+"'")
		}
	}
	if len(forget) == 0 { // it was forgotten, and something has come to wait all the same
		forget = append(forget, "millrace group forget-type "+stream+" "+g.Name+" '"+eventType+"'")
	}
	h.problem("type-waits", SeverityError, text, hint+"; where none will any more: "+strings.Join(forget, "; "))
}

// handledBy reports whether a consumer says that it handles the type.
func handledBy(m redisstream.Member, eventType string) bool {
	about := Member{}
	if json.Unmarshal([]byte(m.About), &about) != nil {
		return false // it has not said anything yet
	}
	return len(about.Patterns) == 0 || pattern.MatchAny(about.Patterns, eventType)
}
