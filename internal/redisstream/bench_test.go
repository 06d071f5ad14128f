package redisstream

import (
	"fmt"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/rishi-platform/millrace/internal/redistest"
)

// serverCPU is the CPU time that the server has used, in µs.
func serverCPU(tb testing.TB, client redis.UniversalClient) float64 {
	tb.Helper()
	var sum float64
	for line := range strings.Lines(client.Info(tb.Context(), "cpu").Val()) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if name == "used_cpu_user" || name == "used_cpu_sys" {
			var seconds float64
			if _, err := fmt.Sscan(value, &seconds); err != nil {
				tb.Fatal(err)
			}
			sum += seconds * 1e6
		}
	}
	return sum
}

// BenchmarkAppend appends 128 messages of 256 B at a time; server-µs is what each costs the server.
func BenchmarkAppend(b *testing.B) {
	server := redistest.Start(b)
	client := server.Client(b)
	c := New(Config{Redis: server.Options(), MaxLen: 1_000_000})
	defer c.Close()
	messages := make([]Message, 128)
	for i := range messages {
		messages[i] = Message{UUID: strings.Repeat("u", 36), Metadata: strings.Repeat("m", 150), Payload: strings.Repeat("p", 256)}
	}
	before := serverCPU(b, client)
	b.ReportAllocs()
	b.ResetTimer()
	seq := uint64(0)
	for done := 0; done < b.N; done += len(messages) {
		seq++
		if _, _, err := c.Append(b.Context(), "bench", Writer{Name: "w", Seq: seq}, messages[:min(len(messages), b.N-done)]); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	b.ReportMetric((serverCPU(b, client)-before)/float64(b.N), "server-µs/op")
}

// BenchmarkPlainAppend is the same by plain XADDs in a pipeline.
func BenchmarkPlainAppend(b *testing.B) {
	server := redistest.Start(b)
	client := server.Client(b)
	uuid, metadata, payload := strings.Repeat("u", 36), strings.Repeat("m", 150), strings.Repeat("p", 256)
	before := serverCPU(b, client)
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; done += 128 {
		_, err := client.Pipelined(b.Context(), func(p redis.Pipeliner) error {
			for range min(128, b.N-done) {
				p.Do(b.Context(), "XADD", "bench", "MAXLEN", "~", 1_000_000, "*", FieldUUID, uuid, FieldMetadata, metadata, FieldPayload, payload)
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	b.ReportMetric((serverCPU(b, client)-before)/float64(b.N), "server-µs/op")
}

// BenchmarkAutoPipelined is the same by one plain XADD per goroutine, which go-redis pipelines by itself.
func BenchmarkAutoPipelined(b *testing.B) {
	server := redistest.Start(b)
	client := server.Client(b)
	ap, err := client.(*redis.Client).AutoPipeline()
	if err != nil {
		b.Fatal(err)
	}
	defer ap.Close()
	uuid, metadata, payload := strings.Repeat("u", 36), strings.Repeat("m", 150), strings.Repeat("p", 256)
	before := serverCPU(b, client)
	b.ReportAllocs()
	b.SetParallelism(64)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := ap.Do(b.Context(), "XADD", "bench", "MAXLEN", "~", 1_000_000, "*", FieldUUID, uuid, FieldMetadata, metadata, FieldPayload, payload).Err(); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.StopTimer()
	b.ReportMetric((serverCPU(b, client)-before)/float64(b.N), "server-µs/op")
}
