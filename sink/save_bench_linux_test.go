package sink_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"intake"
	"intake/internal/local/localtest"
	"intake/sink"
)

// BenchmarkStore_Save saves gatherings of new clients, one after the other. It reports
// the processor time of this process and of the session in Postgres, the claims' tables
// with their indexes, and the WAL.
func BenchmarkStore_Save(b *testing.B) {
	ctx, url := b.Context(), localtest.OwnPostgres(b).URL()
	if _, _, err := sink.Migrate(ctx, url); err != nil {
		b.Fatal(err)
	}
	store, err := sink.Open(ctx, sink.Options{URL: url, MaxConns: 1})
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	if _, err := store.AddPartner(ctx, intake.Partner{Name: "acme", Currency: "GBP"}, [32]byte{}); err != nil {
		b.Fatal(err)
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, shape := range []struct{ items, claims int }{{1, 12}, {16, 12}, {1_000, 12}, {100, 365}} {
		b.Run(fmt.Sprintf("%dx%d", shape.items, shape.claims), func(b *testing.B) {
			clients := benchClients(shape.items, shape.claims)
			before := readUsage(b, conn)
			for b.Loop() {
				c := &intake.Chunk{Batch: uuid.Must(uuid.NewV7()), Chunks: 1, Partner: 1, Currency: "GBP",
					Len: len(clients), Clients: clients}
				for i := range clients {
					clients[i].ID = uuid.NewString()
				}
				if _, err := store.Save(ctx, []*intake.Chunk{c}); err != nil {
					b.Fatal(err)
				}
			}
			items := float64(b.N * shape.items)
			claims := items * float64(shape.claims)
			after := readUsage(b, conn)
			b.ReportMetric(items/b.Elapsed().Seconds(), "items/s")
			b.ReportMetric((after.own-before.own)/items, "µs-own/item")
			b.ReportMetric((after.postgres-before.postgres)/items, "µs-pg/item")
			b.ReportMetric((after.size-before.size)/claims, "B/claim")
			b.ReportMetric((after.wal-before.wal)/claims, "B-wal/claim")
		})
	}
}

type usage struct{ own, postgres, size, wal float64 } // in µs and bytes

func readUsage(b *testing.B, conn *pgx.Conn) (u usage) {
	b.Helper()
	var pid int
	const query = `
		select (select pid from pg_stat_activity where application_name = 'intake' and datname = current_database() limit 1),
		       (select sum(pg_total_relation_size(oid)) from pg_class where relkind = 'r' and relname like '%_claims'),
		       pg_current_wal_lsn() - '0/0'::pg_lsn`
	if err := conn.QueryRow(b.Context(), query).Scan(&pid, &u.size, &u.wal); err != nil {
		b.Fatal(err)
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')'):]))
	for _, ticks := range fields[12:14] { // utime and stime, in 10 ms
		n, err := strconv.Atoi(ticks)
		if err != nil {
			b.Fatal(err)
		}
		u.postgres += float64(n) * 10_000
	}
	var own syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &own); err != nil {
		b.Fatal(err)
	}
	u.own = float64(own.Utime.Nano()+own.Stime.Nano()) / 1_000
	return u
}

func benchClients(items, claims int) []intake.PartnerClient {
	clients := make([]intake.PartnerClient, items)
	for i := range clients {
		clients[i] = client(i, "", 1, make([]intake.RevenueClaim, claims)...)
		clients[i].StartDate = january(0, 0).Start
		clients[i].OtherIdentifiers = []byte(`[{"key":"MerchantId","values":["123456"]}]`)
		for n := range clients[i].Claims {
			start, end, period := time.Date(2024, time.Month(1+n), 1, 0, 0, 0, 0, time.UTC),
				time.Date(2024, time.Month(2+n), 1, 0, 0, 0, 0, time.UTC), intake.Monthly
			if claims > 24 {
				start, end, period = time.Date(2024, 1, 1+n, 0, 0, 0, 0, time.UTC), time.Date(2024, 1, 2+n, 0, 0, 0, 0,
					time.UTC), intake.Daily
			}
			clients[i].Claims[n] = intake.RevenueClaim{
				Start: intake.Timestamp(start.UnixMicro()), End: intake.Timestamp(end.UnixMicro() - 1_000),
				Period:      period,
				TotalAmount: intake.Amount{Abs: uint64(300_002_500 + 7_100*i*n)}, TransactionCount: int64(150 + n),
			}
		}
	}
	return clients
}
