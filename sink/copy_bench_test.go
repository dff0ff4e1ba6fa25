package sink

import (
	"math/big"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"intake"
)

// BenchmarkAppendClaims compares encoding claims by hand with what pgx.CopyFrom does,
// which encodes each value of a row through its type map.
func BenchmarkAppendClaims(b *testing.B) {
	january := intake.RevenueClaim{
		Start: 1_735_689_600_000_000, End: 1_738_367_999_999_000, Period: intake.Monthly,
		TotalAmount: intake.Amount{Abs: 300_002_500}, TransactionCount: 150,
	}
	client := &intake.PartnerClient{ID: "a", Claims: make([]intake.RevenueClaim, 12)}
	for i := range client.Claims {
		client.Claims[i] = january
	}
	r := row{chunk: &intake.Chunk{Partner: 1, Currency: "GBP"}, client: client, id: 1}

	b.Run("by hand", func(b *testing.B) {
		b.ReportAllocs()
		var buffer []byte
		for b.Loop() {
			buffer = appendClaims(buffer[:0], &r)
		}
	})
	b.Run("by pgx", func(b *testing.B) {
		b.ReportAllocs()
		types := pgtype.NewMap()
		oids := []uint32{pgtype.Int8OID, pgtype.TextOID, pgtype.TextOID, pgtype.DateArrayOID, pgtype.Int8ArrayOID,
			pgtype.NumericArrayOID}
		var buffer []byte
		for b.Loop() {
			n := len(client.Claims)
			letters, days, counts, amounts := make([]byte, n), make([]time.Time, n), make([]int64, n),
				make([]pgtype.Numeric, n)
			for i := range client.Claims {
				claim := &client.Claims[i]
				letters[i], days[i], counts[i] = letterOf(claim.Period), time.UnixMicro(int64(claim.Start)).UTC(),
					claim.TransactionCount
				amounts[i] = pgtype.Numeric{Int: new(big.Int).SetUint64(claim.TotalAmount.Abs), Exp: -4, Valid: true}
			}
			buffer = buffer[:0]
			for i, value := range []any{r.id, r.chunk.Currency, string(letters), days, counts, amounts} {
				var err error
				if buffer, err = types.Encode(oids[i], pgtype.BinaryFormatCode, value, buffer); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}
