package redisstream

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// serverRuns counts the runs of the server, as the connections of the liveness client find them: a
// restart or a failover is another run, and a connection that was only made anew is not. A consumer
// takes over from nobody until its peers have had time to come back to the new run.
//
// A run is known by the run_id of INFO, which is asked for once per connection. Where that is not
// answered, each connection counts: a server that was started again can't be reached without a new
// one, and our side closes none (see liveness).
type serverRuns struct {
	cluster bool // several servers, each with its own run

	mu    sync.Mutex
	count int64
	last  string
	known map[string]struct{} // in Cluster
}

// connected notes a connection to the run of this ID; empty: it is not known.
func (r *serverRuns) connected(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if id != "" && r.cluster {
		if _, known := r.known[id]; known {
			return
		}
		if r.known == nil {
			r.known = map[string]struct{}{}
		}
		r.known[id] = struct{}{}
	}
	if id != "" && !r.cluster {
		if id == r.last {
			return
		}
		r.last = id
	}
	r.count++
}

// current names the run under way, for comparison.
func (r *serverRuns) current() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strconv.FormatInt(r.count, 10)
}

// ask is what a new connection of the liveness client does first. Only an error of the connection
// is returned: a server that refuses INFO, or does not have it, serves all the same.
func (r *serverRuns) ask(ctx context.Context, conn *redis.Conn) error {
	text, err := conn.Info(ctx, "server").Result()
	var refused redis.Error
	if err != nil && !errors.As(err, &refused) {
		return err
	}
	id := ""
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, "run_id:"); ok {
			id = strings.TrimSpace(value)
		}
	}
	r.connected(id)
	return nil
}

// clusterConns is how many connections the liveness client has at most in Cluster, to each node. Outside
// batches bounds them. There the pool must not: it would answer for up to a second after an outage with
// the last error, without dialing, once as many dials have failed as it has places.
const clusterConns, poolPlaces = 8, 100

// liveness returns the client for what must not wait for anything else, such as a history that is
// read over a slow link: beats, and what is asked just before a handler starts. Nothing that it
// sends or gets is large. Its connections are closed by nobody on our side, whatever the user wants
// for the others: all of them are in use in turn, so none is idle for long.
func liveness(from *redis.UniversalOptions, runs *serverRuns) redis.UniversalClient {
	client := redis.NewUniversalClient(options(from, func(o *redis.UniversalOptions) {
		o.PoolSize, o.MaxActiveConns = poolPlaces, 0
		if o.IsClusterMode || len(o.Addrs) > 1 && o.MasterName == "" {
			o.PoolSize = clusterConns
		}
		o.MinIdleConns, o.MaxIdleConns = 0, 0
		o.ConnMaxIdleTime, o.ConnMaxLifetime, o.ConnMaxLifetimeJitter = -1, 0, 0
		o.PoolFIFO = true
		onConnect := o.OnConnect
		o.OnConnect = func(ctx context.Context, conn *redis.Conn) error {
			if onConnect != nil {
				if err := onConnect(ctx, conn); err != nil {
					return err
				}
			}
			return runs.ask(ctx, conn)
		}
	}))
	_, runs.cluster = client.(*redis.ClusterClient)
	return client
}
