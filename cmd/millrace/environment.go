package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// envVar is an environment variable that the binary reads.
type envVar struct {
	Name    string
	Flag    string // that says the same and wins; empty where there is none
	Meaning string
	Default string
}

// environment is every variable that the binary reads. A flag wins over its variable, a variable over the default.
var environment = []envVar{
	{"ENABLE_REDIS_EVENTS", "", "serve uses Redis (--redis says the same)", "false"},
	{"REDIS_URL", "--redis", "where Redis is", ""},
	{"REDIS_HOST", "", "host of Redis, where REDIS_URL is empty", "localhost"},
	{"REDIS_PORT", "", "port of Redis, where REDIS_URL is empty", "6379"},
	{"REDIS_PASSWORD", "", "password of Redis, where REDIS_URL is empty", ""},
	{"SERVICE_NAME", "--service", "source of the events that name none", "millrace"},
	{"MILLRACE_NAMESPACE", "--namespace", "prefix of every key", ""},
	{"MILLRACE_MAX_LEN", "--max-len", "events that a stream keeps in memory", "100000"},
	{"MILLRACE_HARD_MAX_LEN", "--hard-max-len", "half of the length at which a stream in Redis is cut, whatever was read", "10 x max-len"},
	{"MILLRACE_ADDR", "--addr", "where serve listens", "127.0.0.1:8080"},
	{"MILLRACE_ALLOW_ANONYMOUS", "--allow-anonymous", "everybody who reaches the port is an administrator", "false"},
	{"MILLRACE_DATA_DIR", "--data-dir", "folder for the spool of serve: events that are published while Redis is away; off: keep nothing outside of Redis", ""},
	{"MILLRACE_SPOOL_BYTES", "--spool-bytes", "the most that the spool may take on disk", "1GiB"},
	{"MILLRACE_RESTORE", "--restore", "events per stream that serve can append again when Redis forgets what it had confirmed; 0: name them only", "10000"},
	{"MILLRACE_DEMO", "--demo", "serve runs a booking workload", "false"},
	{"MILLRACE_SERVER", "--server", "server that one-shot verbs speak HTTP to", ""},
	{"MILLRACE_CONCURRENCY", "--concurrency", "events that work handles at the same time", "cores"},
	{"MILLRACE_ATTEMPTS", "--attempts", "failures after which work gives an event up; -1: never", "20"},
	{"MILLRACE_BACKOFF", "--backoff", "wait of work after the first failure", "1s"},
	{"MILLRACE_BACKOFF_MAX", "--backoff-max", "longest wait of work between attempts", "15m"},
	{"MILLRACE_TIMEOUT", "--timeout", "how long handling one event may take", "without end"},
	{"MILLRACE_CRASH_LIMIT", "--crash-limit", "deaths of workers after which an event is given up; -1: never", "3"},
	{"MILLRACE_CLAIM_IDLE", "--claim-idle", "after how long work takes what other software has left pending", "1m"},
	{"MILLRACE_DRAIN_TIMEOUT", "--drain-timeout", "how long a stop of work waits for what is being handled", "20s"},
	{"MILLRACE_NEVER_PAUSE", "--never-pause", "work goes on where nearly everything fails", "false"},
	{"MILLRACE_PER_SUBJECT", "--per-subject", "work handles the events of one subject one after the other", "false"},
	{"MILLRACE_DEAD_LETTERS", "--dead-letters", "dead letters that a group keeps", "100000"},
	{"MILLRACE_DEAD_LETTER_AGE", "--dead-letter-age", "how long a group keeps them", "30d"},
	{"MILLRACE_WARN_LAG", "--warn-lag", "health warns when an event has waited so long for a group", "1m"},
	{"MILLRACE_ERROR_LAG", "--error-lag", "and calls it an error then", "10m"},
	{"MILLRACE_WARN_PENDING", "--warn-pending", "health warns when a consumer has held a delivery for so long", "5m"},
	{"MILLRACE_ERROR_DEAD", "--error-dead", "percent of the last hour's events above which dead letters are an error", "1"},
	{"MILLRACE_TRACE_MODE", "--trace-mode", "auto, continue, link", "auto"},
	{"MILLRACE_LOG_LEVEL", "--log-level", "debug, info, warn, error", "info"},
	{"MILLRACE_LOG_FORMAT", "--log-format", "text, json", "text"},
	{"MILLRACE_CORRELATION_ID", "", "correlation ID of what publish publishes; set by work --exec", ""},
	{"MILLRACE_EVENT_ID", "", "causation ID of what publish publishes; set by work --exec", ""},
	{"TRACEPARENT", "", "trace context of what publish publishes; set by work --exec", ""},
	{"OTEL_*", "", "OpenTelemetry's own variables; OTEL_EXPORTER_OTLP_ENDPOINT switches the export of traces on", "off"},
}

// fromEnvironment gives flags that were not given the value of their variable. REDIS_URL is apart: whether it counts depends on the
// verb (redisOptions).
func fromEnvironment(flags *pflag.FlagSet, lookup func(string) (string, bool)) error {
	for _, v := range environment {
		flag := flags.Lookup(strings.TrimPrefix(v.Flag, "--"))
		if v.Flag == "" || v.Name == "REDIS_URL" || flag == nil || flag.Changed {
			continue
		}
		if value, _ := lookup(v.Name); value != "" {
			if err := flags.Set(flag.Name, value); err != nil {
				return usagef("%s: %q is no value for %s", v.Name, value, v.Flag)
			}
		}
	}
	return nil
}

// newEnvironmentTopic is what "millrace help environment" prints.
func newEnvironmentTopic() *cobra.Command {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "variable\tflag\tdefault\tmeaning")
	for _, v := range environment {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", v.Name, orDash(v.Flag), orDash(v.Default), v.Meaning)
	}
	_ = w.Flush() // into memory: it never fails
	return &cobra.Command{
		Use:   "environment",
		Short: "The environment variables that millrace reads",
		Long:  "The environment variables that millrace reads. A flag wins over its variable, a variable over the default.\n\n" + text.String(),
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
