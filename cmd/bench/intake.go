package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"

	"intake/internal/local"
)

// startIntake starts a front, a worker, a NATS and a Redis, and makes a database and a
// partner. All of it is of the program's own revision.
func (b *bench) startIntake(ctx context.Context, name, program string) (s *system, err error) {
	s = &system{name: name, program: program, admins: make(map[string]string), saved: make(map[string]bool)}
	if s.database, s.conn, err = b.database(ctx, name); err != nil {
		return nil, err
	}
	if err := do(ctx, ".", program, "migrate", "--postgres-url="+s.database); err != nil {
		return nil, err
	}
	server, err := local.StartRedis(ctx, local.RedisOptions{Dir: filepath.Join(b.dir, name+"-redis")})
	if err != nil {
		return nil, err
	}
	b.stops = append(b.stops, server.Stop)
	options, err := redis.ParseURL(server.URL())
	if err != nil {
		return nil, err
	}
	s.seen = redis.NewClient(options)
	b.stops = append(b.stops, func(context.Context) error { return s.seen.Close() })
	queue, err := b.runSelf("nats", name+"-nats", "nats", filepath.Join(b.dir, name+"-nats"))
	if err != nil {
		return nil, err
	}
	s.nats = queue.url
	if s.client, s.secret, err = s.addPartner(ctx, "bench"); err != nil {
		return nil, err
	}
	env := []string{
		"INTAKE_POSTGRES_URL=" + s.database, "INTAKE_REDIS_URL=" + server.URL(), "INTAKE_NATS_URL=" + s.nats,
		"INTAKE_LOG_LEVEL=warn",
	}
	var addresses [3]string
	for i := range addresses {
		if addresses[i], err = freeAddress(); err != nil {
			return nil, err
		}
	}
	s.url = "http://" + addresses[0]
	s.admins["front"], s.admins["worker"] = addresses[1], addresses[2]
	worker, err := b.run("worker", name+"-worker", program, env, "worker", "--admin-listen="+s.admins["worker"])
	if err != nil {
		return nil, err
	}
	front, err := b.run("front", name+"-front", program, env, "front", "--listen="+addresses[0],
		"--admin-listen="+s.admins["front"], "--max-connections-per-address=0")
	if err != nil {
		return nil, err
	}
	s.processes = []*child{front, worker, queue}
	for process, address := range s.admins {
		if err := b.waitReady(ctx, "http://"+address+"/readyz", name+"-"+process); err != nil {
			return nil, err
		}
	}
	s.redisEmpty, err = s.redisMemory(ctx)
	return s, err
}

func (s *system) redisMemory(ctx context.Context) (int64, error) {
	info, err := s.seen.InfoMap(ctx, "memory").Result()
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(info["Memory"]["used_memory"], 10, 64)
}

// setLimit limits a partner's items a second; 0 means no limit. The front applies it
// within seconds.
func (s *system) setLimit(ctx context.Context, partner string, items int) error {
	limit := fmt.Sprintf("--items-per-second=%d", items)
	if err := do(ctx, ".", s.program, "partner", "set", partner, limit, "--postgres-url="+s.database); err != nil {
		return err
	}
	time.Sleep(3 * time.Second)
	return nil
}

// addPartner adds a partner to Intake.
func (s *system) addPartner(ctx context.Context, partner string) (id, secret string, err error) {
	out, err := exec.CommandContext(ctx, s.program,
		"partner", "add", partner, "--currency=GBP", "--json", "--postgres-url="+s.database).Output()
	if err != nil {
		return "", "", fmt.Errorf("intake partner add: %w", err)
	}
	var credentials struct {
		ID     string `json:"client_id"`
		Secret string `json:"client_secret"`
	}
	err = json.Unmarshal(out, &credentials)
	return credentials.ID, credentials.Secret, err
}

// records returns the number of saved clients.
func (s *system) records(ctx context.Context) (n int, err error) {
	err = s.conn.QueryRow(ctx, "select count(*) from partner_clients").Scan(&n)
	return n, err
}

// behind returns the number of messages of all streams that are not processed yet.
func (s *system) behind(ctx context.Context) (uint64, error) {
	nc, err := nats.Connect(s.nats)
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return 0, err
	}
	var behind uint64
	streams := js.StreamNames(ctx)
	for name := range streams.Name() {
		stream, err := js.Stream(ctx, name)
		if err != nil {
			return 0, err
		}
		consumers := stream.ListConsumers(ctx)
		for info := range consumers.Info() {
			behind += info.NumPending + uint64(info.NumAckPending)
		}
		if err := consumers.Err(); err != nil {
			return 0, err
		}
	}
	return behind, streams.Err()
}

// drained waits until nothing is queued.
func (s *system) drained(ctx context.Context) error {
	for {
		behind, err := s.behind(ctx)
		if err != nil || behind == 0 {
			return err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// serveNATS is the first argument nats: a private NATS in a process of its own.
func serveNATS(ctx context.Context, dir string) error {
	server, err := local.StartNATS(ctx, local.NATSOptions{Dir: dir})
	if err != nil {
		return err
	}
	fmt.Println(server.URL())
	<-ctx.Done()
	stop, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return server.Stop(stop)
}
