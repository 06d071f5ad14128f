package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rishi-platform/millrace/internal/units"
)

// OpenFromEnv opens a bus as the environment says, so that code written for a bus in memory runs unchanged with or without
// Redis. See ConfigFromEnv for the variables. It warns where they say where Redis is and not that it is to be used.
func OpenFromEnv(ctx context.Context) (*Bus, error) {
	return openFromEnv(ctx, os.LookupEnv, slog.Default())
}

func openFromEnv(ctx context.Context, lookup func(string) (string, bool), logger *slog.Logger) (*Bus, error) {
	cfg, err := ConfigFromEnv(lookup)
	if err != nil {
		return nil, fmt.Errorf("read environment: %w", err)
	}
	url, _ := lookup("REDIS_URL")
	host, _ := lookup("REDIS_HOST")
	if cfg.Redis == nil && (url != "" || host != "") {
		logger.Warn("a Redis address is set, but not used: events are kept in memory", "hint", "set ENABLE_REDIS_EVENTS=true")
	}
	cfg.Logger = logger
	return Open(ctx, cfg)
}

// ConfigFromEnv reads a configuration; lookup is os.LookupEnv, or a stand-in for it. Everything that is wrong is reported
// at once.
//
//	ENABLE_REDIS_EVENTS    use Redis; default false: memory only
//	REDIS_URL              redis://, rediss://; with master_name= Sentinel, with addr= Cluster
//	REDIS_HOST, REDIS_PORT, REDIS_PASSWORD   where REDIS_URL is empty; default localhost, 6379, none
//	SERVICE_NAME           source of the events; default millrace
//	MILLRACE_NAMESPACE     prefix of every key; default none
//	MILLRACE_DATA_DIR      folder for events that are accepted while Redis is away; "off": the bus keeps nothing itself; default none
//	MILLRACE_SPOOL_BYTES   the most that they may take there; such as 512MiB; default 1GiB
//	MILLRACE_FALLBACK      wait or local: what groups do with them meanwhile; default local where there is a data folder
//	MILLRACE_RESTORE       how many events per stream can be appended again when Redis forgets them; 0: none; default 10,000
//	MILLRACE_WARN_LAG, MILLRACE_ERROR_LAG, MILLRACE_WARN_PENDING, MILLRACE_ERROR_DEAD   see HealthLimits; such as 30s, and 2.5 for a percentage
//	MILLRACE_MAX_LEN, MILLRACE_HARD_MAX_LEN  events that a stream keeps; default 100,000 and ten times that
func ConfigFromEnv(lookup func(string) (string, bool)) (Config, error) {
	cfg := Config{Announce: true}
	var faults []error
	get := func(name string) string { v, _ := lookup(name); return v }

	cfg.Service = get("SERVICE_NAME")
	cfg.Namespace = get("MILLRACE_NAMESPACE")
	number := func(name string, least int64, set func(int64)) {
		if text := get(name); text != "" {
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil || n < least {
				faults = append(faults, fmt.Errorf("%s: %q is not a number above %d", name, text, least-1))
				return
			}
			set(n)
		}
	}
	if text := get("MILLRACE_SPOOL_BYTES"); text != "" {
		var err error
		if cfg.SpoolBytes, err = units.Bytes(text); err != nil || cfg.SpoolBytes < 1 {
			faults = append(faults, fmt.Errorf("MILLRACE_SPOOL_BYTES: %q is no size such as 512MiB", text))
		}
	}
	number("MILLRACE_MAX_LEN", 1, func(n int64) { cfg.MaxLen = n })
	number("MILLRACE_HARD_MAX_LEN", 1, func(n int64) { cfg.HardMaxLen = n })
	number("MILLRACE_RESTORE", 0, func(n int64) { cfg.RestoreEvents, cfg.NoRestore = int(n), n == 0 })
	cfg.Health = healthFromEnv(get, func(err error) { faults = append(faults, err) })
	enabled := false
	if text := get("ENABLE_REDIS_EVENTS"); text != "" {
		on, err := strconv.ParseBool(text)
		if err != nil {
			faults = append(faults, fmt.Errorf("ENABLE_REDIS_EVENTS: %q is neither true nor false", text))
		}
		enabled = on
	}
	if enabled {
		options, err := RedisFromEnv(lookup)
		faults = append(faults, err)
		cfg.Redis = options
		if cfg.SpoolDir = get("MILLRACE_DATA_DIR"); cfg.SpoolDir == "off" {
			cfg.SpoolDir, cfg.RedisOnly = "", true
		}
		if cfg.Fallback = Fallback(get("MILLRACE_FALLBACK")); cfg.Fallback == "" && cfg.SpoolDir != "" {
			cfg.Fallback = Local
		}
	}
	return cfg, errors.Join(faults...)
}

// healthFromEnv reads from when on health calls something a problem.
func healthFromEnv(get func(string) string, fault func(error)) (l HealthLimits) {
	for name, field := range map[string]*time.Duration{
		"MILLRACE_WARN_LAG": &l.LagWarning, "MILLRACE_ERROR_LAG": &l.LagError, "MILLRACE_WARN_PENDING": &l.PendingWarning,
	} {
		if text := get(name); text != "" {
			var err error
			if *field, err = units.Duration(text); err != nil || *field == 0 {
				fault(fmt.Errorf("%s: %q is no time such as 30s, nor -1s for never", name, text))
			}
		}
	}
	if text := get("MILLRACE_ERROR_DEAD"); text != "" {
		var err error
		if l.DeadPercent, err = strconv.ParseFloat(text, 64); err != nil || !(l.DeadPercent != 0) {
			fault(fmt.Errorf("MILLRACE_ERROR_DEAD: %q is no percentage such as 2.5, nor -1 for never", text))
		}
	}
	return l
}

// RedisFromEnv returns where Redis is by REDIS_URL, else by REDIS_HOST, REDIS_PORT and REDIS_PASSWORD with their defaults.
func RedisFromEnv(lookup func(string) (string, bool)) (*redis.UniversalOptions, error) {
	get := func(name, otherwise string) string {
		if v, _ := lookup(name); v != "" {
			return v
		}
		return otherwise
	}
	if text := get("REDIS_URL", ""); text != "" {
		options, err := ParseRedisURL(text)
		if err != nil {
			return nil, fmt.Errorf("REDIS_URL: %w", err)
		}
		return options, nil
	}
	port, host := get("REDIS_PORT", "6379"), get("REDIS_HOST", "")
	if service, ok := strings.CutPrefix(port, "tcp://"); ok { // Kubernetes sets it so for a service of the name redis
		if of, number, err := net.SplitHostPort(service); err == nil {
			port, host = number, cmp.Or(host, of)
		}
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return nil, fmt.Errorf("REDIS_PORT: %q is not a port", port)
	}
	return &redis.UniversalOptions{
		Addrs:    []string{net.JoinHostPort(cmp.Or(host, "localhost"), port)},
		Password: get("REDIS_PASSWORD", ""),
	}, nil
}

// ParseRedisURL reads redis://[user:password@]host[:port][/database], rediss:// for TLS, unix:// for a socket. With the parameter
// master_name the hosts are Sentinels, with addr those of a Cluster; the other parameters are those of go-redis. No error
// repeats the URL, since it may hold a password.
func ParseRedisURL(text string) (*redis.UniversalOptions, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("malformed URL, want redis://[user:password@]host[:port][/database]; percent-encode / ? # % @ in user and password")
	}
	// A password with one of these characters ends the host, and what stands before it would be taken for one.
	if _, behind, _ := strings.Cut(text, "://"); strings.Contains(behind[min(len(behind), max(0, strings.IndexAny(behind+"/", "/?#"))):], "@") {
		return nil, errors.New("URL has an @ behind its host; percent-encode / ? # % @ in user and password")
	}
	switch query := u.Query(); {
	case u.Scheme != "redis" && u.Scheme != "rediss" && u.Scheme != "unix":
		return nil, fmt.Errorf("scheme %q is none of redis, rediss, unix", u.Scheme)
	case u.Host == "" && u.Scheme != "unix":
		return nil, errors.New("URL names no host")
	case query.Has("master_name"):
		return parseSentinel(text)
	case query.Has("addr"):
		return parseCluster(text)
	}
	o, err := redis.ParseURL(text)
	if err != nil {
		return nil, err
	}
	return &redis.UniversalOptions{
		Addrs: []string{o.Addr}, DB: o.DB, Username: o.Username, Password: o.Password, TLSConfig: o.TLSConfig, ClientName: o.ClientName,
		DialTimeout: o.DialTimeout, ReadTimeout: o.ReadTimeout, WriteTimeout: o.WriteTimeout, PoolSize: o.PoolSize, MinIdleConns: o.MinIdleConns,
		MaxIdleConns: o.MaxIdleConns, MaxActiveConns: o.MaxActiveConns, PoolTimeout: o.PoolTimeout, ConnMaxIdleTime: o.ConnMaxIdleTime,
		ConnMaxLifetime: o.ConnMaxLifetime, PoolFIFO: o.PoolFIFO,
	}, nil
}

func parseSentinel(text string) (*redis.UniversalOptions, error) {
	o, err := redis.ParseFailoverURL(text)
	if err != nil {
		return nil, err
	}
	return &redis.UniversalOptions{
		Addrs: o.SentinelAddrs, MasterName: o.MasterName, DB: o.DB, Username: o.Username, Password: o.Password,
		SentinelUsername: o.SentinelUsername, SentinelPassword: o.SentinelPassword, TLSConfig: o.TLSConfig, ClientName: o.ClientName,
		DialTimeout: o.DialTimeout, ReadTimeout: o.ReadTimeout, WriteTimeout: o.WriteTimeout, PoolSize: o.PoolSize, MinIdleConns: o.MinIdleConns,
		MaxIdleConns: o.MaxIdleConns, MaxActiveConns: o.MaxActiveConns, PoolTimeout: o.PoolTimeout, ConnMaxIdleTime: o.ConnMaxIdleTime,
		ConnMaxLifetime: o.ConnMaxLifetime, PoolFIFO: o.PoolFIFO,
	}, nil
}

func parseCluster(text string) (*redis.UniversalOptions, error) {
	o, err := redis.ParseClusterURL(text)
	if err != nil {
		return nil, err
	}
	return &redis.UniversalOptions{
		Addrs: o.Addrs, IsClusterMode: true, Username: o.Username, Password: o.Password, TLSConfig: o.TLSConfig, ClientName: o.ClientName,
		DialTimeout: o.DialTimeout, ReadTimeout: o.ReadTimeout, WriteTimeout: o.WriteTimeout, PoolSize: o.PoolSize, MinIdleConns: o.MinIdleConns,
		MaxIdleConns: o.MaxIdleConns, MaxActiveConns: o.MaxActiveConns, PoolTimeout: o.PoolTimeout, ConnMaxIdleTime: o.ConnMaxIdleTime,
		ConnMaxLifetime: o.ConnMaxLifetime, PoolFIFO: o.PoolFIFO,
	}, nil
}
