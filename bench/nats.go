package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rishi-platform/millrace/internal/loadgen"
)

// usageSubject is where the server of this benchmark says what CPU it has used: NATS itself does not tell.
const usageSubject = "bench.usage"

// serveNATS is the process of a JetStream server that stores its streams in dir. It prints its address and ends when stdin does, which
// its parent holds.
func serveNATS(dir string, stdin io.Reader, stdout io.Writer) error {
	server, err := natsserver.NewServer(&natsserver.Options{
		Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, JetStream: true, StoreDir: dir, NoLog: true, NoSigs: true,
	})
	if err != nil {
		return fmt.Errorf("make a nats-server: %w", err)
	}
	server.Start()
	defer server.WaitForShutdown()
	defer server.Shutdown()
	if !server.ReadyForConnections(10 * time.Second) {
		return fmt.Errorf("nats-server is not ready after 10 s")
	}
	own, err := nats.Connect("", nats.InProcessServer(server))
	if err != nil {
		return fmt.Errorf("connect to the own nats-server: %w", err)
	}
	defer own.Close()
	_, err = own.Subscribe(usageSubject, func(m *nats.Msg) {
		cpu, err := ownCPU()
		if err != nil {
			return // who asks will notice
		}
		if answer, err := json.Marshal(cpu); err == nil {
			_ = m.Respond(answer)
		}
	})
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	if _, err := fmt.Fprintln(stdout, server.Addr()); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, stdin)
	return err
}

// runNATS measures JetStream with a file store: asynchronous publishing, a pull consumer with explicit acknowledgement, each on a
// connection of its own.
func runNATS(ctx context.Context, s spec) (sample, error) {
	direct, err := nats.Connect("nats://" + s.Server)
	if err != nil {
		return nil, err
	}
	m := &meter{kind: s.Kind, server: func() (serverUsage, error) {
		answer, err := direct.Request(usageSubject, nil, 10*time.Second)
		if err != nil {
			return serverUsage{}, err
		}
		var u serverUsage
		return u, json.Unmarshal(answer.Data, &u.cpu)
	}}
	admin, err := jetstream.New(direct)
	if err != nil {
		return nil, err
	}
	if _, err := admin.CreateStream(ctx, jetstream.StreamConfig{
		Name: stream, Subjects: []string{eventType}, Storage: jetstream.FileStorage, MaxMsgs: maxLen,
	}); err != nil {
		return nil, err
	}
	consumer, err := admin.CreateConsumer(ctx, stream, jetstream.ConsumerConfig{
		Durable: group, AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: natsWindow,
	})
	if err != nil {
		return nil, err
	}
	settled := func() (bool, error) {
		info, err := consumer.Info(ctx)
		return err == nil && info.NumPending == 0 && info.NumAckPending == 0, err
	}

	var handled atomic.Int64
	consuming, err := natsStream(s.Addr)
	if err != nil {
		return nil, err
	}
	taken, err := consuming.Consumer(ctx, stream, group)
	if err != nil {
		return nil, err
	}
	if _, err := taken.Consume(func(msg jetstream.Msg) {
		_ = msg.Ack() // a lost one shows in settled
		handled.Add(1)
	}); err != nil {
		return nil, err
	}
	publishing, err := natsStream(s.Addr)
	if err != nil {
		return nil, err
	}
	payload := loadgen.NewPayload(s.Payload)
	publish := func(loadgen.Share) error {
		_, err := publishing.PublishMsgAsync(&nats.Msg{Subject: eventType, Header: natsHeader(), Data: payload}, jetstream.WithStallWait(10*time.Second))
		return err
	}
	if err := publish(loadgen.Share{}); err != nil {
		return nil, err
	}
	if err := awaitSettled(ctx, &handled, 1, settled); err != nil {
		return nil, err
	}
	handled.Store(0)

	if err := m.start(); err != nil {
		return nil, err
	}
	if err := loadgen.Spread(ctx, s.Publishers, 1, s.Events, 0, publish); err != nil {
		return nil, err
	}
	select {
	case <-publishing.PublishAsyncComplete():
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if err := awaitSettled(ctx, &handled, s.Events, settled); err != nil {
		return nil, err
	}
	return m.stop(s.Events)
}

// natsWindow is how many may be unacknowledged at once, on either side. More than the defaults (1,000 and 4,000), so that at 1 ms
// round trip neither is what limits; larger ones made no difference.
const natsWindow = 8192

// natsStream returns JetStream on a new connection.
func natsStream(addr string) (jetstream.JetStream, error) {
	conn, err := nats.Connect("nats://" + addr)
	if err != nil {
		return nil, err
	}
	return jetstream.New(conn, jetstream.WithPublishAsyncMaxPending(natsWindow))
}
