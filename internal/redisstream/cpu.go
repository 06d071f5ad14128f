package redisstream

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// CPU is the time that a server has computed since it started, user and system.
type CPU struct {
	Total time.Duration // all threads
	Main  time.Duration // the one that runs commands
}

// CPU asks the server that keeps the stream: in Cluster the master of its slot. The difference between two answers is what was computed
// in between, for whomever.
func (c *Client) CPU(ctx context.Context, stream string) (CPU, error) {
	client := c.admin
	if cluster, ok := client.(*redis.ClusterClient); ok {
		node, err := cluster.MasterForKey(ctx, c.streamKey(stream))
		if err != nil {
			return CPU{}, err
		}
		client = node
	}
	text, err := client.Info(ctx, "cpu").Result()
	if err != nil {
		return CPU{}, err
	}
	return parseCPU(text)
}

// parseCPU reads INFO cpu: lines of name:seconds.
func parseCPU(info string) (CPU, error) {
	seconds := map[string]time.Duration{}
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if s, err := strconv.ParseFloat(value, 64); err == nil {
			seconds[name] = time.Duration(s * float64(time.Second))
		}
	}
	cpu := CPU{
		Total: seconds["used_cpu_user"] + seconds["used_cpu_sys"],
		Main:  seconds["used_cpu_user_main_thread"] + seconds["used_cpu_sys_main_thread"],
	}
	if cpu.Total == 0 {
		return CPU{}, fmt.Errorf("%w: INFO cpu without CPU times", errReply)
	}
	if cpu.Main == 0 { // not every system tells it
		cpu.Main = cpu.Total
	}
	return cpu, nil
}
