package dedupe_test

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"

	"intake"
	"intake/internal/decode"
)

const benchmarkKeys = 5_000_000

func benchmarkID(n int) string { return fmt.Sprintf("1b7901db-4879-4616-8052-%012d", n) }

// BenchmarkSeenSet asks a seen set of five million keys of one partner for the keys
// of a batch, half of which it has; and, to compare, a plain set of the same
// keys with one SMISMEMBER, which could not distinguish same from different data.
func BenchmarkSeenSet(b *testing.B) {
	s := redisSeenSet(b)
	empty := usedMemory(b, s.client)
	keys := make([]intake.SavedKey, benchmarkKeys)
	for i := range keys {
		id := benchmarkID(i)
		keys[i] = intake.SavedKey{Partner: 1, ID: id, Fingerprint: decode.Fingerprint([]byte(`"` + id + `"`))}
	}
	if err := s.Mark(b.Context(), "one", keys); err != nil {
		b.Fatal(err)
	}
	full := usedMemory(b, s.client)
	for i := 0; i < len(keys); i += 5_000 {
		members := make([]any, 5_000)
		for j := range members {
			members[j] = digest(keys[i+j].ID)
		}
		if err := s.client.SAdd(b.Context(), "plain", members...).Err(); err != nil {
			b.Fatal(err)
		}
	}
	plain := usedMemory(b, s.client)

	for _, n := range []int{1, 100, 1_000, 10_000} {
		clients := make([]*intake.PartnerClient, n)
		for i := range clients {
			clients[i] = key(benchmarkID(rand.IntN(2*benchmarkKeys)), 1)
		}
		b.Run(fmt.Sprintf("ask/keys=%d", n), func(b *testing.B) {
			failed := s.asks(b, "failed")
			for b.Loop() {
				s.ask(b, 1, clients...)
			}
			if s.asks(b, "failed") > failed {
				b.Fatal("an ask failed")
			}
			b.ReportMetric(float64(full-empty)/benchmarkKeys, "B/key")
		})
		b.Run(fmt.Sprintf("smismember/keys=%d", n), func(b *testing.B) {
			for b.Loop() {
				members := make([]any, n)
				for i := range members {
					members[i] = digest(clients[i].ID)
				}
				if err := s.client.SMIsMember(b.Context(), "plain", members...).Err(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(plain-full)/benchmarkKeys, "B/key")
		})
	}
	// Concurrent large batches, with the time limit of production: how much of them is
	// not seen for want of time.
	production := newSeenSet(b, s.client, 0)
	production.waitAnswered(b)
	for _, atOnce := range []int{1, 2, 4, 8} {
		b.Run(fmt.Sprintf("ask/keys=10000/at once=%d", atOnce), func(b *testing.B) {
			batch := make([]*intake.PartnerClient, intake.MaxBatchItems)
			for i := range batch {
				batch[i] = key(benchmarkID(i), 1)
			}
			production.waitAnswered(b)
			var missed atomic.Int64
			for b.Loop() {
				var all sync.WaitGroup
				for range atOnce {
					all.Go(func() {
						for _, seen := range production.ask(b, 1, batch...) {
							if seen == no {
								missed.Add(1)
							}
						}
					})
				}
				all.Wait()
			}
			b.ReportMetric(float64(missed.Load())*100/float64(b.N*atOnce*len(batch)), "%missed")
		})
	}
	b.Run("mark/keys=5000", func(b *testing.B) {
		for b.Loop() {
			if err := s.Mark(b.Context(), "one", keys[:5_000]); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func digest(id string) string {
	sum := sha256.Sum256([]byte(id))
	return string(sum[:16])
}

func usedMemory(b *testing.B, client redis.UniversalClient) int64 {
	b.Helper()
	info, err := client.Info(b.Context(), "memory").Result()
	if err != nil {
		b.Fatal(err)
	}
	used, err := strconv.ParseInt(regexp.MustCompile(`used_memory:(\d+)`).FindStringSubmatch(info)[1], 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return used
}
