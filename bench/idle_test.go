package main

import (
	"bytes"
	"encoding/json"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestIdleCasesOfTheFlags(t *testing.T) {
	t.Parallel()
	type fleet struct {
		Name                       string
		Instances, Streams, Groups int
		Settle, Window             time.Duration
	}
	const rest, window = 45 * time.Second, 30 * time.Second
	for _, test := range []struct {
		args []string
		want []fleet
	}{
		{nil, []fleet{{"millrace/idle/3-instances@0ms", 3, 50, 20, rest, window}}},
		{[]string{"--instances", "10, 30"}, []fleet{
			{"millrace/idle/10-instances@0ms", 10, 50, 20, rest, window},
			{"millrace/idle/30-instances@0ms", 30, 50, 20, rest, window},
		}},
		{[]string{"--quick", "--settle", "3s"}, []fleet{{"millrace/idle/3-instances@0ms", 3, 5, 4, 3 * time.Second, 2 * time.Second}}},
	} {
		o, err := parse(append([]string{"--only", "/idle/"}, test.args...))
		if err != nil {
			t.Fatalf("%v: %v", test.args, err)
		}
		var got []fleet
		for _, c := range o.cases() {
			if c.Kind != kindIdle || !c.once {
				t.Errorf("%v: got kind %q, once %v, want an idle case that is run once", test.args, c.Kind, c.once)
			}
			got = append(got, fleet{c.Name, c.Instances, c.Streams, c.Groups, c.Settle, c.Window})
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%v: -want +got:\n%s", test.args, diff)
		}
	}
}

// info is a reply as Redis 7 gives it, but for lines that are of no interest. Scripts ran 30 + 7 + 2 times.
const info = "# Clients\r\nconnected_clients:31\r\n\r\n" +
	"# CPU\r\nused_cpu_sys:2.250000\r\nused_cpu_user:4.500000\r\nused_cpu_sys_children:9.000000\r\n\r\n" +
	"# Stats\r\ntotal_commands_processed:1000\r\ntotal_net_input_bytes:20000\r\ntotal_net_output_bytes:30000\r\n\r\n" +
	"# Persistence\r\naof_enabled:1\r\naof_current_size:4000\r\n\r\n" +
	"# Commandstats\r\ncmdstat_evalsha:calls=30,usec=900,usec_per_call=30.00\r\ncmdstat_eval:calls=7,usec=9\r\n" +
	"cmdstat_evalsha_ro:calls=2,usec=1\r\ncmdstat_zadd:calls=500,usec=100\r\n"

func TestCountersOfAReply(t *testing.T) {
	t.Parallel()
	got, err := parseCounters(info)
	if err != nil {
		t.Fatal(err)
	}
	want := counters{cpu: 6.75, scripts: 39, commands: 1000, in: 20_000, out: 30_000, aof: 4000, clients: 31, reply: len(info) + len("$471\r\n\r\n")}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for what, text := range map[string]string{
		"nothing":                  "",
		"no append-only file":      strings.ReplaceAll(info, "aof_current_size", "aof_other"),
		"a number that is none":    strings.ReplaceAll(info, "total_commands_processed:1000", "total_commands_processed:many"),
		"scripts without a number": strings.ReplaceAll(info, "calls=7", "runs=7"),
	} {
		if _, err := parseCounters(text); err == nil {
			t.Errorf("%s: got nil, want an error", what)
		}
	}
}

func TestCountersBecomeRates(t *testing.T) {
	t.Parallel()
	before := counters{at: time.Unix(100, 0), client: time.Second, cpu: 5, scripts: 100, commands: 1000, in: 5000, out: 8000, aof: 100, clients: 4, reply: 500}
	after := counters{at: time.Unix(110, 0), client: 4 * time.Second, cpu: 7.5, scripts: 300, commands: 1501, aof: 10_100, clients: 31}
	after.in = before.in + 20_000 + float64(len(appendCommand(nil, infoSections...)))
	after.out = before.out + 500 + 30_000
	want := sample{
		serverLoad: 25, scriptRate: 20, commandRate: 50, requestRate: 2000, replyRate: 3000, aofRate: 1000,
		connections: 10, clientLoad: 10,
	}
	if diff := cmp.Diff(want, before.until(after, 3)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestOwnCommandsAreNotCounted asks a real server, which must have done nothing but what it was asked for between two looks.
func TestOwnCommandsAreNotCounted(t *testing.T) {
	t.Parallel()
	server, err := startServer(t.Context(), Case{System: systemMillrace, Kind: kindIdle}, filepath.Join(t.TempDir(), "server"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.stop)
	look, err := dial(server.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { look.Close() })
	client, err := dial(server.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	between := func(commands ...[]string) sample {
		t.Helper()
		before, err := countersOf(look)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range commands {
			if _, err := client.do(c...); err != nil {
				t.Fatal(err)
			}
		}
		after, err := countersOf(look)
		if err != nil {
			t.Fatal(err)
		}
		before.at, after.at = time.Unix(0, 0), time.Unix(1, 0)
		return before.until(after, 1)
	}
	script := []string{"EVAL", "return redis.call('GET', KEYS[1])", "1", "k"}
	for _, test := range []struct {
		commands [][]string
		want     sample
	}{
		{nil, sample{scriptRate: 0, commandRate: 0, requestRate: 0, replyRate: 0, aofRate: 0, connections: 1}},
		{[][]string{{"PING"}}, sample{scriptRate: 0, commandRate: 1, requestRate: 14, replyRate: 7, aofRate: 0, connections: 1}},
		// EVAL and the GET that it calls.
		{[][]string{script}, sample{
			scriptRate: 1, commandRate: 2, requestRate: float64(len(appendCommand(nil, script...))), replyRate: 5, aofRate: 0, connections: 1,
		}},
	} {
		got := between(test.commands...)
		delete(got, serverLoad) // of the machine
		delete(got, clientLoad)
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%v: -want +got:\n%s", test.commands, diff)
		}
	}
}

func TestIdleTablesAndJSON(t *testing.T) {
	t.Parallel()
	all := append(cases(true, false)[:1], idleCases(idleOptions{instances: []int{3, 10}}, false)...)
	name := systemMillrace + "/idle/3-instances@0ms"
	now := results{name: {{serverLoad: 2.5, scriptRate: 1234, aofRate: 500_000, connections: 7.5}}}
	then := results{name: {{serverLoad: 20, scriptRate: 2468, aofRate: 1_000_000, connections: 7.5}}}

	var table strings.Builder
	printIdle(&table, all, now)
	for _, want := range []string{name, "10-instances", "1,234", "500.0", "43.20", "50 streams × 20 groups, for 30s after 45s"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, &table)
		}
	}
	if strings.Contains(table.String(), systemLimit) {
		t.Errorf("a case about events stands in:\n%s", &table)
	}
	var comparison strings.Builder
	printIdleComparison(&comparison, all, now, then)
	if words := strings.Join(strings.Fields(comparison.String()), " "); !strings.Contains(words, name+" server CPU % 2.5 20.0 0.125") {
		t.Errorf("CPU now and then is missing in:\n%s", &comparison)
	}
	for _, w := range rows(all, now) {
		if w.Kind == kindIdle {
			t.Errorf("%s stands among the cases about events", w.Case)
		}
	}

	var out bytes.Buffer
	if err := printJSON(&out, idleRows(all, now)); err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(out.String(), "\n")
	var object map[string]any
	if err := json.Unmarshal([]byte(line), &object); err != nil {
		t.Fatal(err)
	}
	want := strings.Fields("case system kind instances groups streams settle_s window_s server_cpu_percent scripts_per_s commands_per_s request_bytes_per_s " +
		"reply_bytes_per_s aof_bytes_per_s connections_per_instance connections_per_instance_peak client_cpu_percent_per_instance joined_percent")
	slices.Sort(want)
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(object))); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if object["instances"] != 3.0 || object["window_s"] != 30.0 || object["scripts_per_s"] != 1234.0 || object["joined_percent"] != nil {
		t.Errorf("got %s, want the setting, what was measured, and null for what was not", line)
	}
}

func TestNoIdleCasesNoTable(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	all := cases(true, false)
	printIdle(&out, all, results{})
	printIdleComparison(&out, all, results{}, results{})
	printTable(&out, nil)
	if out.Len() > 0 {
		t.Errorf("got %q, want nothing", &out)
	}
}

func TestProgressIsPassedOn(t *testing.T) {
	t.Parallel()
	var logged []string
	l := listener{log: func(_ string, args ...any) { logged = append(logged, string(args[0].([]byte))) }}
	for _, part := range []string{"a warning\nprog", "ress: half\n", "progress: done\nthe end"} {
		if n, err := l.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatalf("got %d, %v, want all %d bytes written", n, err, len(part))
		}
	}
	if want := []string{"half", "done"}; !slices.Equal(logged, want) {
		t.Errorf("got %q, want %q", logged, want)
	}
	if want := "a warning\nprogress: half\nprogress: done\nthe end"; l.said.String() != want {
		t.Errorf("kept %q, want %q", l.said.String(), want)
	}
}
