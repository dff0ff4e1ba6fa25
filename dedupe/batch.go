// Package dedupe tells which items of a batch are duplicates: of each other, and
// of what was saved before as far as Redis knows.
package dedupe

import (
	"bytes"
	"intake/internal/decode"

	"intake"
)

// InBatch gives their verdicts to those items that the batch alone decides: the
// steps 1 to 4 of the contract's "Which state wins". verdicts has one entry an
// item, all pending; what is pending afterwards is to be saved.
func InBatch(items []intake.Item, verdicts []intake.Verdict) {
	first := make(map[string]int, len(items))
	var groups map[string][]int // the positions of keys that are there more than once
	for i := range items {
		key := items[i].Key
		if key == "" {
			continue
		}
		j, again := first[key]
		if !again {
			first[key] = i
			continue
		}
		if groups == nil {
			groups = make(map[string][]int)
		}
		if groups[key] == nil {
			groups[key] = []int{j}
		}
		groups[key] = append(groups[key], i)
	}
	for key, group := range groups {
		judge(items, verdicts, key, group)
	}
	for i := range items {
		if verdicts[i].Code == intake.CodePending && items[i].Errors != "" {
			verdicts[i] = intake.Invalid(items[i].Errors)
		}
	}
}

// judge decides items that share a key: all of them are in conflict if any two
// differ, valid or not; else the first one speaks for them.
func judge(items []intake.Item, verdicts []intake.Verdict, key string, group []int) {
	verdict := intake.Verdict{}
	if !sameData(items, group) {
		verdict = intake.ConflictInRequest(group, key)
	} else {
		verdict = intake.DuplicateInRequest(group[0])
		group = group[1:]
	}
	for _, i := range group {
		verdicts[i] = verdict
	}
}

func sameData(items []intake.Item, group []int) bool {
	first := &items[group[0]]
	var fingerprint intake.Fingerprint
	known := false
	for _, i := range group[1:] {
		if bytes.Equal(items[i].Raw, first.Raw) {
			continue
		}
		if !known {
			fingerprint, known = fingerprintOf(first), true
		}
		if fingerprintOf(&items[i]) != fingerprint {
			return false
		}
	}
	return true
}

// fingerprintOf takes an invalid item's from its text: only valid ones have it.
func fingerprintOf(item *intake.Item) intake.Fingerprint {
	if item.Errors == "" {
		return item.Client.Fingerprint
	}
	return decode.Fingerprint(item.Raw)
}
