package decode_test

import (
	"fmt"
	"strings"
	"time"

	"intake"
	"intake/internal/decode"
)

func ExampleBatch() {
	body := []byte(`[
		{"partner_client_id": "1b7901db", "entity_type": "SoleTrader", "revenue_claims": [
			{"start_date": "2025-01-01T00:00:00.000Z", "end_date": "2025-01-31T23:59:59.999Z", "time_period": "Monthly",
			 "currency": "GBP", "total_amount": 30000.25, "transaction_count": 150}]},
		{"partner_client_id": "4c5a2f10", "entity_typo": "SoleTrader", "revenue_claims": [
			{"start_date": "2025-02-01T00:00:00.000Z", "end_date": "2025-02-27T23:59:59.999Z", "time_period": "Monthly",
			 "currency": "GBP", "total_amount": 30000.25, "transaction_count": -150}]}]`)

	items, err := decode.Batch(body, &intake.Partner{Currency: "GBP"}, time.Now())
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, item := range items {
		if item.Errors != "" {
			fmt.Println(item.Key, "is invalid:")
			for _, problem := range strings.Split(item.Errors, "; ") {
				fmt.Println("  " + problem)
			}
			continue
		}
		for _, claim := range item.Client.Claims {
			fmt.Println(item.Key, claim.Period, claim.Start, claim.TotalAmount, claim.TransactionCount)
		}
	}

	// Output:
	// 1b7901db Monthly 2025-01-01T00:00:00.000Z 30000.25 150
	// 4c5a2f10 is invalid:
	//   entity_type: required
	//   revenue_claims[0].end_date: must be 2025-02-28T23:59:59.999Z for a Monthly claim that starts 2025-02-01
	//   revenue_claims[0].transaction_count: must have the same sign as total_amount
	//   entity_typo: unknown property
}
