package sink

import (
	"math/big"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"intake"
)

// BenchmarkAppendClaims compares encoding a claim by hand with what pgx.CopyFrom does,
// which encodes each value of a row through its type map.
func BenchmarkAppendClaims(b *testing.B) {
	january := intake.RevenueClaim{
		Start: 1_735_689_600_000_000, End: 1_738_367_999_999_000, Period: intake.Monthly,
		TotalAmount: intake.Amount{Abs: 300_002_500}, TransactionCount: 150,
	}
	client := &intake.PartnerClient{ID: "a", Claims: make([]intake.RevenueClaim, 100)}
	for i := range client.Claims {
		client.Claims[i] = january
	}
	r := row{chunk: &intake.Chunk{Partner: 1, Currency: "GBP"}, client: client, id: 1}

	b.Run("by hand", func(b *testing.B) {
		b.ReportAllocs()
		var buffer []byte
		for n := 0; n < b.N; n += len(client.Claims) {
			buffer = appendClaims(buffer[:0], &r)
		}
	})
	b.Run("by pgx", func(b *testing.B) {
		b.ReportAllocs()
		types := pgtype.NewMap()
		oids := []uint32{
			pgtype.Int8OID, pgtype.TimestamptzOID, pgtype.TimestamptzOID, pgtype.Int8OID,
			pgtype.Int2OID, pgtype.NumericOID, pgtype.TextOID, pgtype.TextOID,
		}
		var buffer []byte
		for n := 0; n < b.N; n++ {
			claim := &client.Claims[n%len(client.Claims)]
			amount := pgtype.Numeric{Int: new(big.Int).SetUint64(claim.TotalAmount.Abs), Exp: -4, Valid: true}
			values := []any{
				r.id, time.UnixMicro(int64(claim.Start)), time.UnixMicro(int64(claim.End)), claim.TransactionCount,
				int16(n % len(client.Claims)), amount, claim.Period.String(), r.chunk.Currency,
			}
			buffer = buffer[:0]
			for i, value := range values {
				var err error
				if buffer, err = types.Encode(oids[i], pgtype.BinaryFormatCode, value, buffer); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}
