package redisstream

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// aliveWithin is how late the next beat of a consumer may be that counts as alive in a report.
const aliveWithin = 6 * time.Second

// addMembers joins those who beat and those whom the server knows.
func (g *GroupInfo) addMembers(alive []redis.Z, fresh time.Time, known ...[]redis.XInfoConsumer) {
	at := map[string]int{}
	for _, z := range alive {
		name, _ := z.Member.(string)
		at[name] = len(g.Members)
		m := Member{Name: name, Beat: int64(z.Score), Alive: int64(z.Score) > fresh.UnixMilli()}
		if m.Alive {
			g.Alive++
		}
		g.Members = append(g.Members, m)
	}
	for _, consumers := range known {
		for _, k := range consumers {
			i, ok := at[k.Name]
			if !ok {
				i = len(g.Members)
				at[k.Name] = i
				g.Members = append(g.Members, Member{Name: k.Name, Beat: -1})
			}
			g.Members[i].Pending += k.Pending
		}
	}
}

// lag is how many entries that are kept the group has not got yet; -1 where that is unknown. entries-read is nil on the server
// after deletions ahead of the group, after a start at some ID, and after restarts of 7.0 (RELIABILITY F34): its lag is nil then too.
func lag(info StreamInfo, g redis.XInfoGroup, delivered ID) int64 {
	switch {
	case delivered.Compare(info.Last) >= 0 || info.Length == 0:
		return 0
	case g.Lag < 0:
		return -1
	}
	return min(info.Length, max(0, info.EntriesAdded-g.EntriesRead))
}

// addMeta takes what concerns the group out of the stream's meta hash.
func (g *GroupInfo) addMeta(meta map[string]string) {
	g.Patterns = strings.Fields(meta["patterns:"+g.Name])
	g.Paused = meta["paused:"+g.Name]
	g.Frontier, _ = ParseID(meta["frontier:"+g.Name]) // absent before the first beat
	if ms, err := strconv.ParseInt(meta["since:"+g.Name], 10, 64); err == nil {
		g.Since = time.UnixMilli(ms)
	}
	g.Died = deathOf(meta["died:"+g.Name])
	g.DeadLost, _ = strconv.ParseInt(meta["deadlost:"+g.Name], 10, 64)
	if lost, err := strconv.ParseInt(meta["lost:"+g.Name], 10, 64); err == nil {
		g.Lost = lost
	}
	for i := range g.Members {
		g.Members[i].About = meta["consumer:"+g.Name+":"+g.Members[i].Name]
	}
	for field, value := range meta {
		if eventType, ok := strings.CutPrefix(field, "unhandled:"+g.Name+":"); ok {
			g.Unhandled[eventType], _ = strconv.ParseInt(value, 10, 64)
		}
	}
}

// deathOf reads what takeover.lua keeps of the last consumer that has died.
func deathOf(text string) Death {
	parts := strings.SplitN(text, " ", 3)
	if len(parts) < 3 {
		return Death{}
	}
	at, _ := strconv.ParseInt(parts[0], 10, 64)
	taken, _ := strconv.ParseInt(parts[1], 10, 64)
	return Death{At: time.Unix(at, 0), Name: parts[2], Taken: taken}
}

// Server is what is known of the server that is connected.
type Server struct {
	Version         string
	Role            string // master, slave
	Persistence     string // none, rdb, aof-always, aof-everysec, aof-no; empty: unknown
	MaxmemoryPolicy string
}

// Server describes the server. What the connection has no right to see stays empty.
func (c *Client) Server(ctx context.Context) (Server, error) {
	text, err := c.admin.Info(ctx).Result()
	if err != nil {
		if Classify(err) == Denied {
			return Server{}, nil // a user without the right to INFO can publish all the same
		}
		return Server{}, err
	}
	info := infoFields(text)
	s := Server{Version: serverVersion(info), Role: info["role"], MaxmemoryPolicy: info["maxmemory_policy"]}
	config, err := c.admin.ConfigGet(ctx, "[as]*").Result() // appendonly, appendfsync, save
	if err == nil {
		s.Persistence = persistence(config)
	}
	return s, nil
}

// serverVersion is the version of the server. Valkey calls itself a Redis 7.2 besides, for old clients.
func serverVersion(info map[string]string) string {
	if own := info["valkey_version"]; own != "" {
		return "valkey " + own
	}
	return info["redis_version"]
}

// infoFields are the fields of an answer of INFO.
func infoFields(text string) map[string]string {
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			fields[name] = value
		}
	}
	return fields
}

func persistence(config map[string]string) string {
	switch {
	case config["appendonly"] == "yes":
		return "aof-" + config["appendfsync"]
	case config["save"] != "":
		return "rdb"
	}
	return "none"
}
