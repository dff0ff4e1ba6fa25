package main

import (
	"errors"
	"fmt"
	"slices"

	"intake/internal/client"
)

// readEnds reads an answer to items. It checks that each entry has the item's data,
// and the state that the batch alone decides, if it does. Pending items are unknown.
func readEnds(text []byte, items []item) (ends []end, id string, pending bool, err error) {
	answer, err := client.ParseAnswer(text)
	if err != nil {
		return nil, "", false, err
	}
	if len(answer.Result) != len(items) {
		return nil, "", false, fmt.Errorf("an answer of %d items to %d", len(answer.Result), len(items))
	}
	verdicts := decided(items)
	ends = make([]end, len(items))
	for i := range answer.Result {
		status, data := &answer.Result[i].Status, string(answer.Result[i].Data)
		// A status check has the id only when the log has no more.
		if data != items[i].text() && data != fmt.Sprintf(`{"partner_client_id":%q}`, items[i].key) {
			return nil, "", false, fmt.Errorf("item %d has the data %.300s", i, data)
		}
		if status.State != status.Code.State() {
			return nil, "", false, fmt.Errorf("item %d is %s with the code %s", i, status.State, status.Code)
		}
		if ends[i], err = endOf(status.Verdict(), verdicts[i], items[i]); err != nil {
			return nil, "", false, fmt.Errorf("item %d: %w", i, err)
		}
	}
	pending = slices.Contains(ends, unknown)
	if pending == answer.IsFinal() {
		err = fmt.Errorf("status %s with pending items: %v", answer.Status, pending)
	}
	if pending && answer.ID == "" {
		err = errors.New("a pending batch has no id")
	}
	return ends, answer.ID, pending, err
}
