// Package dedupe finds the duplicates among the items of a batch: [InBatch] those within
// the batch, and a [SeenSet] those of records that were saved before.
//
// InBatch (batch.go) is pure. A SeenSet (seen.go; asked in ask.go and together.go, marked
// in mark.go) is a cache in Redis. It only saves work: the data store decides in the end,
// and a Redis that is empty, stale, slow or unavailable changes no state of an item, only
// speed. Four bounds see to that: a timeout per ask, a limit on large asks, a breaker
// around all of them, and the lease of the data store's timeline, which keeps the set from
// being asked about records that a restore has lost.
package dedupe

import (
	"bytes"

	"intake"
	"intake/internal/decode"
)

// InBatch sets the verdicts on the items that the batch alone decides. verdicts has one
// entry per item, all pending. In this order:
//
//  1. An item without a key is invalid, and is compared with no other.
//  2. If any two items with the same key differ in data, all of them are in conflict,
//     valid or not.
//  3. If they are the same, all but the first are duplicates of the first.
//  4. The other invalid items are invalid.
//
// The items that are pending afterwards are to be saved.
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

// judge sets the verdicts on a group of items that share a key.
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

// fingerprintOf returns an item's fingerprint. Decoding sets that of valid items only.
func fingerprintOf(item *intake.Item) intake.Fingerprint {
	if item.Errors == "" {
		return item.Client.Fingerprint
	}
	return decode.Fingerprint(item.Raw)
}
