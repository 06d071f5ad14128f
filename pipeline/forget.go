package pipeline

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/rishi-platform/millrace/internal/pattern"
	"github.com/rishi-platform/millrace/internal/redisstream"
)

// ForgetType takes a pattern away from what a group takes of a stream: an event type that no
// instance handles any more, or a pattern with wildcards, as it stands in GroupHealth.Patterns.
// What no other pattern of the group matches is acknowledged from then on and counted as unhandled,
// also the events that wait for a consumer which handles them. It returns how many of those there
// were; with an error it is how many were acknowledged before it, and the rest goes when it is
// called again.
//
// ErrPatternNeeded while a live consumer of the group handles the pattern, since that would bring
// it back at once, and where the group takes nothing else; ErrUnknownPattern where it does not take
// the pattern, and nothing waits that it does not take; ErrUnknownGroup where there is no such
// group.
func (b *Bus) ForgetType(ctx context.Context, stream, group, pattern string) (int, error) {
	f := forgetting{bus: b, stream: stream, group: group, pattern: pattern}
	if err := f.begin(ctx, false); err != nil {
		return 0, err
	}
	return f.each(ctx, f.drop)
}

// Forgettable is how many events that wait ForgetType would acknowledge. Its errors are those of
// ForgetType.
func (b *Bus) Forgettable(ctx context.Context, stream, group, pattern string) (int, error) {
	f := forgetting{bus: b, stream: stream, group: group, pattern: pattern}
	if err := f.begin(ctx, true); err != nil {
		return 0, err
	}
	return f.each(ctx, f.count)
}

// typesAtOnce is how many types are asked for at a time.
const typesAtOnce = 100

// forgetting is one call of ForgetType or Forgettable.
type forgetting struct {
	bus                    *Bus
	stream, group, pattern string

	known    bool                 // the group took the pattern
	patterns redisstream.Patterns // what it takes now
}

// begin has the log forget the pattern, or say whether it would.
func (f *forgetting) begin(ctx context.Context, dryRun bool) error {
	b := f.bus
	if err := CheckPattern(f.pattern); err != nil {
		return fmt.Errorf("pattern %q %w", f.pattern, err)
	}
	if _, err := b.group(ctx, f.stream, f.group); err != nil {
		return err
	}
	done, err := b.log.Forget(ctx, f.stream, f.group, redisstream.Forget{
		Pattern: f.pattern, Default: pattern.WholeStream(f.stream), DryRun: dryRun,
	})
	if err != nil {
		return b.redisError("forget a type in group "+f.group+" of", f.stream, err)
	}
	f.known, f.patterns = done.Result != redisstream.NotTaken, done.Patterns
	reason := ""
	switch done.Result {
	case redisstream.StillHandled:
		reason = fmt.Sprintf("consumer %s is alive and handles it, and would bring it back "+
			"at once: stop it, or start it without the pattern", done.Consumer)
	case redisstream.NotSaidYet:
		reason = fmt.Sprintf("consumer %s has joined just now and has not said what it "+
			"handles: try again in some seconds", done.Consumer)
	case redisstream.NothingElse:
		reason = "the group takes nothing else"
	default:
		return nil
	}
	return f.failed(fmt.Errorf("%w: %s", ErrPatternNeeded, reason))
}

func (f *forgetting) failed(err error) error {
	return fmt.Errorf("forget %s in group %s of stream %s: %w", f.pattern, f.group, f.stream, err)
}

// each calls the function with the types of which events wait, some at a time, and returns the sum
// of its results.
func (f *forgetting) each(
	ctx context.Context, do func(context.Context, []string) (int, error),
) (sum int, err error) {
	op := "look through what waits in group " + f.group + " of"
	for after := ""; ; {
		types, err := f.bus.log.WaitingTypes(ctx, f.stream, f.group, "", after, typesAtOnce)
		if err != nil {
			return sum, f.bus.redisError(op, f.stream, err)
		}
		if len(types) == 0 {
			break
		}
		after = types[len(types)-1]
		n, err := do(ctx, types)
		sum += n
		if err != nil {
			return sum, f.bus.redisError(op, f.stream, err)
		}
	}
	if sum == 0 && !f.known {
		taken := strings.Join(f.patterns.Set, ", ")
		return 0, f.failed(fmt.Errorf("%w; it takes %s", ErrUnknownPattern, taken))
	}
	return sum, nil
}

// count is how many events wait of those types that the group would not take.
func (f *forgetting) count(ctx context.Context, types []string) (int, error) {
	left := slices.Clone(f.patterns.Set)
	left = slices.DeleteFunc(left, func(p string) bool { return p == f.pattern })
	types = slices.DeleteFunc(types, func(t string) bool { return pattern.MatchAny(left, t) })
	return f.bus.log.CountWaiting(ctx, f.stream, f.group, types)
}

// drop acknowledges the events that wait of those types that the group does not take.
func (f *forgetting) drop(ctx context.Context, types []string) (dropped int, err error) {
	for _, t := range types {
		n, err := f.dropType(ctx, t)
		dropped += n
		if err != nil {
			return dropped, err
		}
	}
	return dropped, nil
}

// dropType acknowledges the events of a type that wait, while the group does not take it: where its
// patterns have changed, since a consumer has joined, they are looked at again.
func (f *forgetting) dropType(ctx context.Context, eventType string) (dropped int, err error) {
	b := f.bus
	for !pattern.MatchAny(f.patterns.Set, eventType) {
		n, settled, err := b.log.DropWaiting(ctx, f.stream, f.group, eventType, f.patterns.Version)
		dropped += n
		if b.cfg.Hooks.Unhandled != nil {
			for range n {
				b.cfg.Hooks.Unhandled(f.stream, f.group, eventType)
			}
		}
		if err != nil || settled == redisstream.Done {
			return dropped, err
		}
		now, err := b.log.Forget(ctx, f.stream, f.group, redisstream.Forget{DryRun: true})
		if err != nil {
			return dropped, err
		}
		f.patterns = now.Patterns
	}
	return dropped, nil
}
