package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"intake"
)

// A told is an answer to a batch.
type told struct {
	ID     string `json:"status_check_id"`
	Status string `json:"status"`
	Result []struct {
		Data   json.RawMessage `json:"data"`
		Status struct {
			State  intake.State `json:"state"`
			Code   intake.Code  `json:"code"`
			Reason string       `json:"validation_errors"`
		} `json:"status"`
	} `json:"result"`
}

// readEnds reads an answer to items, and checks that it says of each what it is
// about, and what the batch alone decides. Those that are pending are unknown.
func readEnds(text []byte, items []item) (ends []end, id string, pending bool, err error) {
	var t told
	if err := json.Unmarshal(text, &t); err != nil {
		return nil, "", false, err
	}
	if len(t.Result) != len(items) {
		return nil, "", false, fmt.Errorf("an answer of %d items to %d", len(t.Result), len(items))
	}
	verdicts := decided(items)
	ends = make([]end, len(items))
	for i := range t.Result {
		status, data := &t.Result[i].Status, string(t.Result[i].Data)
		// A status check has the id only when the log has no more.
		if data != items[i].text() && data != fmt.Sprintf(`{"partner_client_id":%q}`, items[i].key) {
			return nil, "", false, fmt.Errorf("item %d has the data %.300s", i, data)
		}
		if status.State != status.Code.State() {
			return nil, "", false, fmt.Errorf("item %d is %s with the code %s", i, status.State, status.Code)
		}
		if ends[i], err = endOf(intake.Verdict{Code: status.Code, Text: status.Reason}, verdicts[i], items[i]); err != nil {
			return nil, "", false, fmt.Errorf("item %d: %w", i, err)
		}
	}
	pending = slices.Contains(ends, unknown)
	if pending == (t.Status == string(intake.Completed)) {
		err = fmt.Errorf("status %s with pending items: %v", t.Status, pending)
	}
	if pending && t.ID == "" {
		err = errors.New("a pending batch has no id")
	}
	return ends, t.ID, pending, err
}
