package queue

import (
	"fmt"
	"testing"

	"intake"
)

// BenchmarkClients encodes and decodes the items to be saved of a full chunk, with a claim each.
func BenchmarkClients(b *testing.B) {
	clients := make([]intake.PartnerClient, MaxChunkItems)
	for i := range clients {
		clients[i] = intake.PartnerClient{
			Item: i, ID: fmt.Sprintf("1b7901db-4879-4616-8052-%012d", i), EntityType: "SoleTrader",
			StartDate:        1700000000000000,
			OtherIdentifiers: []byte(`[{"key":"MerchantId","values":["123456"]}]`),
			Claims: []intake.RevenueClaim{{
				Period: intake.Monthly, Start: 1735689600000000, End: 1738367999999000,
				TotalAmount: intake.Amount{Abs: 300002500}, TransactionCount: 150,
			}},
		}
	}
	encoded := appendClients(nil, clients)
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			encoded = appendClients(encoded[:0], clients)
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := readClients(encoded); err != nil {
				b.Fatal(err)
			}
		}
	})
}
