package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
)

// A measurement is the result of a system in one round of a cell. Figures per claim are
// per claim saved.
type measurement struct {
	Items   float64 `json:"items_per_second"`
	P50     float64 `json:"p50_ms"`
	P99     float64 `json:"p99_ms"`
	Refused int     `json:"batches_not_answered_200"`
	// CPU is the processor time in microseconds an item by process. postgres is all of
	// its processes.
	CPU map[string]float64 `json:"cpu_us_per_item"`
	// Memory is the peak of the system's own processes but NATS, in MiB.
	Memory float64 `json:"peak_mib"`
	WAL    float64 `json:"wal_bytes_per_claim"`
	Heap   float64 `json:"heap_bytes_per_claim"`
	// Published and Saved are the mean numbers of items in a publication to the queue and
	// in a transaction. The peers don't count them.
	Published float64 `json:"items_per_publication,omitempty"`
	Saved     float64 `json:"items_per_transaction,omitempty"`
}

// load is the name of the load generator among the processes.
const load = "load"

// cpu returns the processor time an item of all processes but the load.
func (m *measurement) cpu() (sum float64) {
	for name, microseconds := range m.CPU {
		if name != load {
			sum += microseconds
		}
	}
	return sum
}

// duration is longer if one wave of concurrent batches takes seconds.
func (b *bench) duration(c cell) time.Duration {
	if c.Items*c.Claims*c.Concurrency > 300_000 {
		return 2 * b.seconds
	}
	return b.seconds
}

// A report is the part of intake replay's report that is used.
type report struct {
	Report struct {
		Seconds  float64        `json:"seconds"`
		Items    int            `json:"items"`
		Requests int            `json:"requests"`
		Codes    map[string]int `json:"codes"`
		Statuses map[string]int `json:"statuses"`
		Errors   []string       `json:"errors"`
		CPU      float64        `json:"replay_cpu_seconds"`
		Latency  struct {
			P50 float64 `json:"p50"`
			P99 float64 `json:"p99"`
		} `json:"latency_ms"`
		Refused struct {
			P50 float64 `json:"p50"`
			P99 float64 `json:"p99"`
		} `json:"refused_latency_ms"`
		Timeline []struct {
			Items  int     `json:"items"`
			Failed int     `json:"failed"`
			P50    float64 `json:"p50_ms"`
			P99    float64 `json:"p99_ms"`
		} `json:"timeline"`
	} `json:"report"`
}

// replay sends the batches of a file to a system. It is the same program for all systems.
func (b *bench) replay(ctx context.Context, s *system, c cell, file string, args ...string) (*report, error) {
	args = append([]string{
		"replay", file, "--json", "--url=" + s.url, "--client-id=" + s.client, "--client-secret=" + s.secret,
		"--concurrency=" + strconv.Itoa(c.Concurrency), "--fail-if=failed>100%", // refusals are measured, too
	}, args...)
	if c.Echo {
		args = append(args, "--echo")
	}
	if c.Async {
		args = append(args, "--async")
	}
	cmd := exec.CommandContext(ctx, b.program, args...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("intake replay: %w\n%s", err, &errs)
	}
	r := new(report)
	return r, json.Unmarshal(out, r)
}

// measure measures a system in a cell once.
func (b *bench) measure(ctx context.Context, s *system, c cell) (*measurement, error) {
	file, err := b.file(ctx, c)
	if err != nil {
		return nil, err
	}
	args := []string{"--duration=" + b.duration(c).String(), "--fresh-keys"}
	if c.Saved {
		if !s.saved[file] {
			if _, err := b.replay(ctx, s, c, file); err != nil {
				return nil, err
			}
			s.saved[file] = true
		}
		args = args[:1]
	}
	before, err := b.look(ctx, s)
	if err != nil {
		return nil, err
	}
	profiled := b.profile(ctx, s, c)
	got, err := b.replay(ctx, s, c, file, args...)
	if err != nil {
		return nil, err
	}
	if err := profiled(); err != nil {
		return nil, err
	}
	after, err := b.look(ctx, s)
	if err != nil {
		return nil, err
	}
	r := &got.Report
	answered := r.Statuses["200"] + r.Statuses["202"]
	if answered == 0 || r.Items == 0 {
		return nil, fmt.Errorf("none of %d batches was answered 200: %v %q", r.Requests, r.Statuses, r.Errors)
	}
	items := float64(r.Items)
	m := &measurement{
		Items: items / r.Seconds, P50: r.Latency.P50, P99: r.Latency.P99, Refused: r.Requests - answered,
		CPU: map[string]float64{load: r.CPU * 1e6 / items}, Memory: after.memory,
	}
	for name, seconds := range after.cpu {
		m.CPU[name] = (seconds - before.cpu[name]) * 1e6 / items
	}
	if claims := float64(r.Codes["saved"] * c.Claims); claims > 0 {
		m.WAL = float64(after.wal-before.wal) / claims
		m.Heap = float64(after.heap-before.heap) / claims
	}
	more := func(name string) float64 { return after.metrics[name] - before.metrics[name] }
	if saved := more("intake_worker_gathering_items_sum"); saved > 0 {
		m.Saved = saved / more("intake_worker_gathering_items_count")
		m.Published = saved / more("intake_queue_publish_seconds_count")
	}
	return m, nil
}

// profile takes CPU profiles of a system's processes while a cell is measured, if profiles
// are wanted. done waits for them.
func (b *bench) profile(ctx context.Context, s *system, c cell) (done func() error) {
	var group errgroup.Group
	if b.profiles == "" {
		return group.Wait
	}
	for name, address := range s.admins {
		group.Go(func() error {
			url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", address, max(int(b.duration(c).Seconds()),
				1))
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
			if err != nil {
				return err
			}
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				return err
			}
			defer response.Body.Close()
			file, err := os.Create(filepath.Join(b.profiles, fmt.Sprintf("%s-%s-%s.pprof", c, s.name, name)))
			if err != nil {
				return err
			}
			defer file.Close()
			_, err = io.Copy(file, response.Body)
			return err
		})
	}
	return group.Wait
}

// A look is a snapshot of what a system has used so far.
type look struct {
	cpu     map[string]float64 // seconds, by process
	memory  float64            // MiB, the peak since the look before
	wal     int64
	heap    int64 // bytes of the tables of claims
	metrics map[string]float64
}

func (b *bench) look(ctx context.Context, s *system) (*look, error) {
	l := &look{cpu: make(map[string]float64), metrics: make(map[string]float64)}
	for _, child := range s.processes {
		seconds, err := cpuOf(child.cmd.Process.Pid)
		if err != nil {
			return nil, err
		}
		l.cpu[child.name] = seconds
		if child.name != "nats" {
			l.memory += peakMemory(child.cmd.Process.Pid)
		}
	}
	var err error
	if l.cpu["postgres"], err = b.postgresCPU(ctx, s.conn); err != nil {
		return nil, err
	}
	const sizes = `
		select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint,
		       coalesce(sum(pg_relation_size(oid)), 0)::bigint
		  from pg_class
		 where relkind = 'r' and relname like '%claims%'`
	if err := s.conn.QueryRow(ctx, sizes).Scan(&l.wal, &l.heap); err != nil {
		return nil, err
	}
	for _, address := range s.admins {
		if err := addMetrics(ctx, address, l.metrics); err != nil {
			return nil, err
		}
	}
	if s.seen == nil {
		return l, nil
	}
	info, err := s.seen.InfoMap(ctx, "cpu").Result()
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"used_cpu_sys", "used_cpu_user"} {
		seconds, err := strconv.ParseFloat(info["CPU"][name], 64)
		if err != nil {
			return nil, err
		}
		l.cpu["redis"] += seconds
	}
	return l, nil
}
