package pipeline

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/rishi-platform/millrace/internal/redistest"
)

// environ is a stand-in for the environment: NAME=value, separated by spaces.
func environ(text string) func(string) (string, bool) {
	vars := map[string]string{}
	for _, f := range strings.Fields(text) {
		name, value, _ := strings.Cut(f, "=")
		vars[name] = value
	}
	return func(name string) (string, bool) { v, ok := vars[name]; return v, ok }
}

func TestConfigFromEnvWithoutRedis(t *testing.T) {
	t.Parallel()
	// An address alone does not switch Redis on, as in the bus that this one replaces.
	cfg, err := ConfigFromEnv(environ("REDIS_URL=redis://localhost SERVICE_NAME=shop MILLRACE_NAMESPACE=acme MILLRACE_MAX_LEN=5"))
	if err != nil || cfg.Redis != nil || cfg.Service != "shop" || cfg.Namespace != "acme" || cfg.MaxLen != 5 {
		t.Errorf("%+v, %v", cfg, err)
	}
}

func TestP19UnusedRedisAddressIsAWarning(t *testing.T) {
	t.Parallel()
	for env, want := range map[string]bool{
		"REDIS_URL=redis://localhost":                true,
		"REDIS_HOST=redis ENABLE_REDIS_EVENTS=false": true,
		"SERVICE_NAME=shop":                          false,
		"REDIS_URL=" + redistest.Shared(t).URL() + " ENABLE_REDIS_EVENTS=true MILLRACE_NAMESPACE=" + redistest.Namespace(t): false,
	} {
		var log bytes.Buffer
		b, err := openFromEnv(t.Context(), environ(env), slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(env, err)
		}
		closeBus(t, b)
		if warned := strings.Contains(log.String(), "ENABLE_REDIS_EVENTS=true"); warned != want {
			t.Errorf("%s: %q", env, log.String())
		}
	}
}

func TestConfigFromEnvWithRedis(t *testing.T) {
	t.Parallel()
	for env, want := range map[string]struct{ addr, password string }{
		"":                 {"localhost:6379", ""},
		"REDIS_HOST=redis": {"redis:6379", ""},
		"REDIS_HOST=::1 REDIS_PORT=7000 REDIS_PASSWORD=p":       {"[::1]:7000", "p"},
		"REDIS_HOST=redis REDIS_PORT=tcp://10.0.0.1:7001":       {"redis:7001", ""},
		"REDIS_PORT=tcp://10.0.0.1:7001":                        {"10.0.0.1:7001", ""},
		"REDIS_URL=redis://:secret@host:1/2 REDIS_HOST=ignored": {"host:1", "secret"},
	} {
		cfg, err := ConfigFromEnv(environ("ENABLE_REDIS_EVENTS=true " + env))
		if err != nil || cfg.Redis == nil {
			t.Errorf("%s: %+v, %v", env, cfg, err)
			continue
		}
		if o := cfg.Redis; o.Addrs[0] != want.addr || o.Password != want.password {
			t.Errorf("%s: address %s, password %q, want %+v", env, o.Addrs[0], o.Password, want)
		}
	}
}

func TestConfigFromEnvDataDir(t *testing.T) {
	t.Parallel()
	for env, want := range map[string]Config{
		"ENABLE_REDIS_EVENTS=true MILLRACE_DATA_DIR=/data": {SpoolDir: "/data"},
		"ENABLE_REDIS_EVENTS=true MILLRACE_DATA_DIR=off":   {RedisOnly: true},
		"ENABLE_REDIS_EVENTS=true":                         {},
		"MILLRACE_DATA_DIR=off":                            {}, // in memory there is nothing to switch off
		"MILLRACE_DATA_DIR=/data":                          {},
	} {
		cfg, err := ConfigFromEnv(environ(env))
		if err != nil || cfg.SpoolDir != want.SpoolDir || cfg.RedisOnly != want.RedisOnly {
			t.Errorf("%s: spool %q, redis only %v, %v", env, cfg.SpoolDir, cfg.RedisOnly, err)
		}
	}
}

func TestConfigFromEnvForOutages(t *testing.T) {
	t.Parallel()
	for env, want := range map[string]Config{
		"":                       {},
		"MILLRACE_DATA_DIR=/d":   {Fallback: Local},
		"MILLRACE_DATA_DIR=off":  {},
		"MILLRACE_FALLBACK=wait": {Fallback: Wait},
		"MILLRACE_DATA_DIR=/d MILLRACE_FALLBACK=wait MILLRACE_SPOOL_BYTES=99": {Fallback: Wait, SpoolBytes: 99},
		"MILLRACE_SPOOL_BYTES=512MiB":                                         {SpoolBytes: 512 << 20},
		"MILLRACE_RESTORE=7":                                                  {RestoreEvents: 7},
		"MILLRACE_RESTORE=0":                                                  {NoRestore: true},
	} {
		cfg, err := ConfigFromEnv(environ("ENABLE_REDIS_EVENTS=true " + env))
		if err != nil || cfg.Fallback != want.Fallback || cfg.SpoolBytes != want.SpoolBytes || cfg.RestoreEvents != want.RestoreEvents || cfg.NoRestore != want.NoRestore {
			t.Errorf("%s: %+v, %v", env, cfg, err)
		}
	}
	for _, env := range []string{"MILLRACE_RESTORE=-1", "MILLRACE_SPOOL_BYTES=0", "MILLRACE_SPOOL_BYTES=big"} {
		if _, err := ConfigFromEnv(environ("ENABLE_REDIS_EVENTS=true " + env)); err == nil {
			t.Errorf("%s is taken", env)
		}
	}
	for _, cfg := range []Config{{Fallback: "perhaps"}, {Fallback: Local}} {
		if _, err := Open(t.Context(), cfg); err == nil {
			t.Errorf("fallback %q without a spool is taken", cfg.Fallback)
		}
	}
}

func TestConfigFromEnvReportsEveryFault(t *testing.T) {
	t.Parallel()
	_, err := ConfigFromEnv(environ("ENABLE_REDIS_EVENTS=perhaps MILLRACE_MAX_LEN=0 MILLRACE_HARD_MAX_LEN=many"))
	for _, name := range []string{"ENABLE_REDIS_EVENTS", "MILLRACE_MAX_LEN", "MILLRACE_HARD_MAX_LEN"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("error %v does not name %s", err, name)
		}
	}
	for _, env := range []string{"REDIS_PORT=x", "REDIS_PORT=0", "REDIS_PORT=70000", "REDIS_URL=nonsense"} {
		if _, err := ConfigFromEnv(environ("ENABLE_REDIS_EVENTS=true " + env)); err == nil {
			t.Errorf("%s is taken", env)
		}
	}
}

func TestParseRedisURL(t *testing.T) {
	t.Parallel()
	sentinel, err := ParseRedisURL("redis://:p@s1:26379?addr=s2:26379&master_name=main")
	if err != nil || sentinel.MasterName != "main" || len(sentinel.Addrs) != 2 {
		t.Errorf("sentinel: %+v, %v", sentinel, err)
	}
	cluster, err := ParseRedisURL("rediss://n1:7000?addr=n2:7000")
	if err != nil || !cluster.IsClusterMode || len(cluster.Addrs) != 2 || cluster.TLSConfig == nil {
		t.Errorf("cluster: %+v, %v", cluster, err)
	}
	// A password that would end the host makes no other host of what stands before it.
	for _, text := range []string{"redis://user:123/secret@host:1", "redis://user:1?secret@host:1", "redis://user:1#secret@host:1", "redis://:100%secret@host", "redis://:sec/ret@host"} {
		if o, err := ParseRedisURL(text); err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "percent-encode") {
			t.Errorf("%q: %+v, error %v", text, o, err)
		}
	}
	for _, text := range []string{"http://secret@host", "redis://", "redis://:secret@host:1/x", "redis://:secret@ho st", "://secret", "redis://:secret@host?no_such_option=1"} {
		if _, err := ParseRedisURL(text); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: error %v, want one without the password", text, err)
		}
	}
}
