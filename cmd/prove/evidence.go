package main

import (
	"encoding/json"
	"os"
	"time"
)

// keepEvidence writes all batches and their answers to a file. The data of Postgres and
// of NATS are in the same folder.
func (l *load) keepEvidence(file string) error {
	type itemEvidence struct {
		Key     string `json:"partner_client_id"`
		Variant int    `json:"variant"`
		End     string `json:"end"`
	}
	type batchEvidence struct {
		ID      string         `json:"status_check_id,omitempty"`
		Key     string         `json:"idempotency_key,omitempty"`
		Sent    time.Duration  `json:"sent_ns"`
		Told    time.Duration  `json:"told_ns"`
		Pending bool           `json:"pending,omitempty"`
		Items   []itemEvidence `json:"items"`
	}
	batches := make([]batchEvidence, len(l.batches))
	for n, b := range l.batches {
		batches[n] = batchEvidence{ID: b.id, Key: b.key, Sent: b.sent, Told: b.told, Pending: b.pending}
		for i := range b.items {
			batches[n].Items = append(batches[n].Items, itemEvidence{b.items[i].key, b.items[i].variant,
				b.ends[i].String()})
		}
	}
	text, err := json.MarshalIndent(batches, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o600)
}
