package dedupe_test

import (
	"fmt"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"intake"
	"intake/internal/decode"
)

// BenchmarkSeenSet_CPU measures the processor time that a key costs Redis and this process, to mark
// it and to ask for it, by the keys of a call. With -benchtime 1x the keys that are marked are new.
// Half of those that are asked for are known.
func BenchmarkSeenSet_CPU(b *testing.B) {
	for _, n := range []int{20, 1_000} {
		s := redisSeenSet(b)
		next := 0
		batch := func() ([]intake.SavedKey, []*intake.PartnerClient) {
			keys := make([]intake.SavedKey, n)
			clients := make([]*intake.PartnerClient, n)
			for i := range keys {
				id := benchmarkID(next)
				keys[i] = intake.SavedKey{Partner: 1, ID: id, Fingerprint: decode.Fingerprint([]byte(`"` + id + `"`))}
				clients[i] = key(benchmarkID(next*7919%(2*next+1)), 1)
				next++
			}
			return keys, clients
		}
		const rounds = 100_000
		var marks [][]intake.SavedKey
		var asks [][]*intake.PartnerClient
		for range rounds / n {
			keys, clients := batch()
			marks, asks = append(marks, keys), append(asks, clients)
		}
		measure := func(b *testing.B, do func(i int)) {
			own, redis := ownCPU(b), s.cpu(b)
			b.ResetTimer()
			for range b.N {
				for i := range rounds / n {
					do(i)
				}
			}
			keys := float64(b.N * rounds)
			b.ReportMetric(float64((ownCPU(b)-own).Nanoseconds())/keys, "own-ns/key")
			b.ReportMetric(float64((s.cpu(b)-redis).Nanoseconds())/keys, "redis-ns/key")
			b.ReportMetric(0, "ns/op")
		}
		b.Run(fmt.Sprintf("mark/keys=%d", n), func(b *testing.B) {
			measure(b, func(i int) {
				if err := s.Mark(b.Context(), "one", marks[i]); err != nil {
					b.Fatal(err)
				}
			})
		})
		b.Run(fmt.Sprintf("ask/keys=%d", n), func(b *testing.B) {
			measure(b, func(i int) { s.ask(b, 1, asks[i]...) })
		})
	}
}

func ownCPU(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

var cpuSeconds = regexp.MustCompile(`used_cpu_(?:sys|user):([0-9.]+)`)

// cpu returns the processor time that Redis has used.
func (s *seenSet) cpu(b *testing.B) (used time.Duration) {
	b.Helper()
	info, err := s.client.Info(b.Context(), "cpu").Result()
	if err != nil {
		b.Fatal(err)
	}
	for _, seconds := range cpuSeconds.FindAllStringSubmatch(info, -1) {
		n, err := strconv.ParseFloat(seconds[1], 64)
		if err != nil {
			b.Fatal(err)
		}
		used += time.Duration(n * float64(time.Second))
	}
	return used
}
