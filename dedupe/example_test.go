package dedupe_test

import (
	"fmt"
	"time"

	"intake"
	"intake/dedupe"
	"intake/internal/decode"
)

// A batch is judged in memory: decoded, and compared within itself.
func ExampleInBatch() {
	body := []byte(`[
		{"partner_client_id": "A", "entity_type": "SoleTrader"},
		{"partner_client_id": "B", "entity_type": "SoleTrader"},
		{"entity_type": "SoleTrader", "partner_client_id": "\u0041"},
		{"partner_client_id": "C", "entity_type": "SoleTrader"},
		{"partner_client_id": "C", "entity_type": "Partnership"},
		{"partner_client_id": "D"}]`)

	items, err := decode.Batch(body, &intake.Partner{Currency: "GBP"}, time.Now())
	if err != nil {
		fmt.Println(err)
		return
	}
	verdicts := make([]intake.Verdict, len(items))
	dedupe.InBatch(items, verdicts)
	for i, verdict := range verdicts {
		fmt.Printf("%s %v: %v %q\n", items[i].Key, verdict.Code.State(), verdict.Code, verdict.Text)
	}

	// Output:
	// A Pending: pending ""
	// B Pending: pending ""
	// A Duplicate: duplicate_in_request "duplicate of item 0 in this request"
	// C Conflict: conflict_in_request "conflict: items 3 and 4 share partner_client_id \"C\" but their data differs"
	// C Conflict: conflict_in_request "conflict: items 3 and 4 share partner_client_id \"C\" but their data differs"
	// D Failed: invalid "entity_type: required"
}
