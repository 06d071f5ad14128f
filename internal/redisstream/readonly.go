package redisstream

import (
	"context"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Scripts that write nothing are run by EVALSHA_RO, and by EVAL_RO where the server does not know them
// yet: a user who may only read can't load a script, and need not have the right to EVALSHA.

// evaluation runs a script.
type evaluation func(ctx context.Context, c redis.Scripter, keys []string, args ...any) *redis.Cmd

// readOnlyPipelined runs commands, and a script that writes nothing, in one round trip. The replies say
// what became of them.
func readOnlyPipelined(ctx context.Context, client redis.UniversalClient, script *redis.Script, fill func(redis.Pipeliner, evaluation)) {
	send := func(run evaluation) []redis.Cmder {
		cmds, _ := client.Pipelined(ctx, func(p redis.Pipeliner) error { fill(p, run); return nil })
		return cmds
	}
	cmds := send(script.EvalShaRO)
	if slices.ContainsFunc(cmds, func(cmd redis.Cmder) bool { return cmd.Name() == "evalsha_ro" && needsText(cmd.Err()) }) {
		send(script.EvalRO)
	}
}

// rawReadOnly runs the script of a name, which writes nothing, and returns the reply's bytes as a string.
func rawReadOnly(ctx context.Context, client redis.UniversalClient, name string, script *redis.Script, keys []string, args ...any) (string, error) {
	call := func(command, script string) (string, error) {
		all := make([]any, 0, 3+len(keys)+len(args))
		all = append(all, command, script, len(keys))
		for i := range keys {
			all = append(all, keys[i])
		}
		return raw(ctx, client, append(all, args...)...)
	}
	text, err := call("EVALSHA_RO", script.Hash())
	if needsText(err) || strings.HasPrefix(text, "-NOSCRIPT") || strings.HasPrefix(text, "-NOPERM") {
		return call("EVAL_RO", source(name))
	}
	return text, err
}

// needsText reports whether a script has to be sent as a whole.
func needsText(err error) bool {
	return redis.HasErrorPrefix(err, "NOSCRIPT") || redis.HasErrorPrefix(err, "NOPERM")
}
