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
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// A measurement is the result of a system in a cell. Figures per claim are per claim saved.
type measurement struct {
	Items   float64 `json:"items_per_second"`
	Claims  float64 `json:"claims_per_second"`
	P50     float64 `json:"p50_ms"`
	P99     float64 `json:"p99_ms"`
	P999    float64 `json:"p99.9_ms"`
	Refused int     `json:"batches_not_answered_200"`
	// CPU seconds by process; postgres is all of its processes.
	CPU map[string]float64 `json:"cpu_seconds"`
	// CPUClaim is the CPU of the system's own processes, in microseconds a claim.
	CPUClaim float64 `json:"cpu_us_per_claim"`
	// Memory is the peak of the front and the worker together, in MiB.
	Memory float64 `json:"peak_mib"`
	WAL    float64 `json:"wal_bytes_per_claim"`
	// RedisKey is the memory in Redis in bytes per key. It is larger in small sets, whose
	// buckets hold a key or two each.
	RedisKey float64 `json:"redis_bytes_per_key,omitempty"`
}

// file returns a file of batches of a shape.
func (b *bench) file(ctx context.Context, c cell) (string, error) {
	name := fmt.Sprintf("%dx%d-%g.ndjson", c.Items, c.Claims, c.Saved)
	file := filepath.Join(b.dir, name)
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	// About 24,000 items of 12 claims, but enough batches for the concurrency.
	batches := max(24_000*12/(c.Items*c.Claims), 70)
	args := []string{"generate", "--output=" + file, "--batches=" + strconv.Itoa(batches), "--items=" + strconv.Itoa(c.Items), "--claims=" + strconv.Itoa(c.Claims)}
	if c.Items >= 5_000 {
		args[2] = "--batches=20"
	}
	if c.Daily {
		args = append(args, "--daily")
	}
	if c.Saved == 0.5 {
		args = append(args, "--saved-before=0.5")
	}
	if output, err := exec.CommandContext(ctx, b.program, args...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("intake generate: %w\n%s", err, output)
	}
	return file, nil
}

// duration is longer if one wave of concurrent batches takes seconds.
func (b *bench) duration(c cell) time.Duration {
	if c.Items*c.Claims*c.Concurrency > 300_000 {
		return 3 * b.seconds
	}
	return b.seconds
}

func (b *bench) measure(ctx context.Context, c cell) (*result, error) {
	file, err := b.file(ctx, c)
	if err != nil {
		return nil, err
	}
	r := &result{Cell: c, Systems: make(map[string]*measurement)}
	if r.Bare, r.Copy, err = b.limits(ctx, c.shape, file); err != nil {
		return nil, err
	}
	for i := range b.systems {
		if r.Systems[b.systems[i].name], err = b.measureSystem(ctx, &b.systems[i], c, file); err != nil {
			return nil, fmt.Errorf("%s: %w", b.systems[i].name, err)
		}
	}
	r.setRatios()
	return r, nil
}

// A report is the part of intake replay's report that is used.
type report struct {
	Report struct {
		Seconds  float64        `json:"seconds"`
		Items    int            `json:"items"`
		Requests int            `json:"requests"`
		Codes    map[string]int `json:"codes"`
		Statuses map[string]int `json:"statuses"`
		CPU      float64        `json:"replay_cpu_seconds"`
		Latency  struct {
			P50  float64 `json:"p50"`
			P99  float64 `json:"p99"`
			P999 float64 `json:"p99.9"`
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

func (b *bench) replay(ctx context.Context, s *system, c cell, file string, args ...string) (*report, error) {
	args = append([]string{"replay", file, "--json", "--url=" + s.url, "--client-id=" + s.client, "--client-secret=" + s.secret,
		"--concurrency=" + strconv.Itoa(c.Concurrency), "--fail-if=failed>100%"}, args...) // refusals are measured, too
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

func (b *bench) measureSystem(ctx context.Context, s *system, c cell, file string) (*measurement, error) {
	args := []string{"--duration=" + b.duration(c).String(), "--fresh-keys"}
	if c.Saved == 1 {
		if _, err := b.replay(ctx, s, c, file); err != nil {
			return nil, err
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
	m := &measurement{
		Items: float64(r.Items) / r.Seconds, P50: r.Latency.P50, P99: r.Latency.P99, P999: r.Latency.P999,
		Refused: r.Requests - r.Statuses["200"], CPU: map[string]float64{"replay": r.CPU},
	}
	if m.Refused == r.Requests {
		return nil, fmt.Errorf("none of %d batches was answered 200: %v", r.Requests, r.Statuses)
	}
	m.Claims = m.Items * float64(c.Claims)
	claims := max(float64(r.Codes["saved"]*c.Claims), 1)
	own := 0.0
	for name, seconds := range after.cpu {
		m.CPU[name] = seconds - before.cpu[name]
		if name != "postgres" && name != "redis" {
			own += m.CPU[name]
		}
	}
	m.CPUClaim = own * 1e6 / claims
	m.Memory = after.memory
	m.WAL = float64(after.wal-before.wal) / claims
	if s.name == "intake" {
		kept := 0
		if err := s.conn.QueryRow(ctx, "select count(*) from partner_clients").Scan(&kept); err != nil {
			return nil, err
		}
		m.RedisKey = float64(after.redis-b.redisEmpty) / float64(kept)
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
			url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", address, max(int(b.seconds.Seconds()), 1))
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
			if err != nil {
				return err
			}
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				return err
			}
			defer response.Body.Close()
			file, err := os.Create(filepath.Join(b.profiles, strings.ReplaceAll(c.String()+", "+name, " ", "_")+".pprof"))
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

// A look is a snapshot of the counters outside the processes.
type look struct {
	cpu    map[string]float64 // seconds, by process
	memory float64            // MiB, the peak since the look before
	wal    int64
	redis  int64
}

func (b *bench) look(ctx context.Context, s *system) (*look, error) {
	l := &look{cpu: make(map[string]float64)}
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
	if err := s.conn.QueryRow(ctx, "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint").Scan(&l.wal); err != nil {
		return nil, err
	}
	info, err := b.seen.InfoMap(ctx, "memory", "cpu", "server").Result()
	if err != nil {
		return nil, err
	}
	if l.redis, err = strconv.ParseInt(info["Memory"]["used_memory"], 10, 64); err != nil {
		return nil, err
	}
	if s.name == "intake" {
		for _, name := range []string{"used_cpu_sys", "used_cpu_user"} {
			seconds, err := strconv.ParseFloat(info["CPU"][name], 64)
			if err != nil {
				return nil, err
			}
			l.cpu["redis"] += seconds
		}
	}
	return l, nil
}

// cpuOf returns the CPU time of a process and its ended children; see proc(5).
func cpuOf(pid int) (seconds float64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	const utime, cstime = 11, 14
	for _, field := range fields[utime : cstime+1] {
		ticks, err := strconv.ParseFloat(field, 64)
		if err != nil {
			return 0, err
		}
		seconds += ticks / 100
	}
	return seconds, nil
}

// postgresCPU adds up all processes of the server that a connection leads to.
func (b *bench) postgresCPU(ctx context.Context, conn *pgx.Conn) (float64, error) {
	var backend int
	if err := conn.QueryRow(ctx, "select pg_backend_pid()").Scan(&backend); err != nil {
		return 0, err
	}
	postmaster, err := parentOf(backend)
	if err != nil {
		return 0, err
	}
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	total, err := cpuOf(postmaster)
	if err != nil {
		return 0, err
	}
	for _, dir := range all {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		if parent, err := parentOf(pid); err != nil || parent != postmaster {
			continue // it may have ended just now
		}
		seconds, err := cpuOf(pid)
		if err == nil {
			total += seconds
		}
	}
	return total, nil
}

func parentOf(pid int) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return 0, fmt.Errorf("process %d has no parent", pid)
	}
	return strconv.Atoi(fields[1])
}

// peakMemory returns the peak memory of a process since the last call, in MiB.
func peakMemory(pid int) float64 {
	peak := memory(pid, "VmHWM:")
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
	return peak
}

// memory returns one of the sizes in the status of proc(5), in MiB, or 0.
func memory(pid int, name string) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name); ok {
			kib, _ := strconv.ParseFloat(strings.Fields(value)[0], 64)
			return kib / 1024
		}
	}
	return 0
}
