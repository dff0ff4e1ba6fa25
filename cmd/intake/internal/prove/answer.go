package prove

import (
	"encoding/json"
	"fmt"

	"intake"
)

// A told is an answer to a batch.
type told struct {
	ID     string `json:"status_check_id"`
	Status string `json:"status"`
	Result []struct {
		Status struct {
			State  intake.State `json:"state"`
			Code   intake.Code  `json:"code"`
			Reason string       `json:"validation_errors"`
		} `json:"status"`
	} `json:"result"`
}

// readEnds reads an answer of n items. Those that are pending are unknown.
func readEnds(text []byte, n int) (ends []end, id string, pending bool, err error) {
	var t told
	if err := json.Unmarshal(text, &t); err != nil || len(t.Result) != n {
		return nil, "", false, fmt.Errorf("an answer of %d items to %d: %w", len(t.Result), n, err)
	}
	ends = make([]end, n)
	for i := range t.Result {
		switch status := &t.Result[i].Status; {
		case status.Code == intake.CodeSaved:
			ends[i] = saved
		case status.Code == intake.CodePending:
			pending = true
		case status.Code == intake.CodeDuplicateOfSaved && status.Reason == intake.DuplicateOfSaved(true).Text:
			ends[i] = same
		case status.Code == intake.CodeDuplicateOfSaved && status.Reason == intake.DuplicateOfSaved(false).Text:
			ends[i] = different
		default:
			return nil, "", false, fmt.Errorf("item %d is %s: %s", i, status.Code, status.Reason)
		}
	}
	if pending == (t.Status == string(intake.Completed)) {
		err = fmt.Errorf("status %s with pending items: %v", t.Status, pending)
	}
	return ends, t.ID, pending, err
}
