package main

import (
	"fmt"
	"slices"
	"strings"

	"intake"
)

// An item is sent with a key, one of the key's variants of data, and perhaps a flaw.
type item struct {
	key     string
	variant int // how many claims it has, from 1
	flaw    flaw
}

// A flaw is what is wrong with an item.
type flaw uint8

const (
	flawless flaw = iota
	invalid       // by the contract
	unwanted      // by a constraint in Postgres
)

// data returns the variant that a record of the item has; -1 if the item can't be
// saved.
func (i item) data() int {
	if i.flaw != flawless {
		return -1
	}
	return i.variant
}

// entityTypes have an item's flaw in them.
var entityTypes = [...]string{flawless: "SoleTrader", invalid: "Sole Trader", unwanted: "Unwanted"}

// unwantedConstraint is like one that an operator may add.
const unwantedConstraint = "alter table partner_clients add constraint prove_unwanted check (entity_type <> 'Unwanted')"

// text returns the item as it is sent.
func (i item) text() string {
	var text strings.Builder
	fmt.Fprintf(&text, `{"partner_client_id":%q,"entity_type":%q,"revenue_claims":[`, i.key, entityTypes[i.flaw])
	for n := range i.variant {
		if n > 0 {
			text.WriteByte(',')
		}
		month, last := n+1, [...]int{31, 28, 31}[n]
		fmt.Fprintf(&text, `{"start_date":"2025-%02d-01T00:00:00.000Z","end_date":"2025-%02d-%02dT23:59:59.999Z","time_period":"Monthly","currency":"GBP","total_amount":%s,"transaction_count":%d}`,
			month, month, last, i.amount(n), i.transactions(n))
	}
	text.WriteString("]}")
	return text.String()
}

// amount returns a claim's amount, of as many digits as are allowed.
func (i item) amount(claim int) string {
	return fmt.Sprintf("%d%014d.%03d%d", 9-claim, 12345678901234-i.variant, claim, i.variant)
}

func (i item) transactions(claim int) int { return 999_999_999_990 + 3*claim + i.variant - 1 }

// record returns what recordSQL selects of the item when it is saved.
func (i item) record() string {
	claims := make([]string, i.variant)
	for n := range claims {
		month, last := n+1, [...]int{31, 28, 31}[n]
		claims[n] = fmt.Sprintf("2025-%02d-01 00:00:00.000000 2025-%02d-%02d 23:59:59.999000 Monthly GBP %s %d",
			month, month, last, i.amount(n), i.transactions(n))
	}
	return entityTypes[flawless] + ": " + strings.Join(claims, ", ")
}

// recordSQL selects the partner_client_id of each record, the batch and item that it
// comes from, and its data in the form of item.record.
const recordSQL = `
	select c.partner_client_id, c.batch_id::text, c.item, c.entity_type || ': ' || string_agg(concat_ws(' ',
	       to_char(r.start_date at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US'), to_char(r.end_date at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US'),
	       r.time_period, r.currency, r.total_amount, r.transaction_count), ', ' order by r.position)
	  from partner_clients c
	  join partners p on p.id = c.partner_id
	  left join revenue_claims r on r.client_id = c.id
	 where p.name = $1
	 group by c.id`

// decided returns the verdicts of items that depend on the batch alone. The others are
// Pending.
func decided(items []item) []intake.Verdict {
	groups := make(map[string][]int)
	for i := range items {
		groups[items[i].key] = append(groups[items[i].key], i)
	}
	verdicts := make([]intake.Verdict, len(items))
	for key, group := range groups {
		first := items[group[0]]
		if slices.ContainsFunc(group, func(i int) bool { return items[i] != first }) {
			for _, i := range group {
				verdicts[i] = intake.ConflictInRequest(group, key)
			}
			continue
		}
		for _, i := range group[1:] {
			verdicts[i] = intake.DuplicateInRequest(group[0])
		}
		if first.flaw == invalid {
			verdicts[group[0]].Code = intake.CodeInvalid
		}
	}
	return verdicts
}

// An end is the outcome of an item, as far as the answers say.
type end uint8

const (
	unknown   end = iota // the request got no answer
	refused              // the request was refused as a whole
	saved                // Completed
	same                 // Duplicate of a record with the same data
	different            // Duplicate of one with different data
	repeated             // Duplicate of an earlier item of the batch
	conflict             // with another item of the batch
	failed               // invalid by the contract
	declined             // refused by Postgres
)

func (e end) String() string {
	return [...]string{"unknown", "refused", "completed", "duplicate, same data", "duplicate, different data",
		"duplicate in its batch", "conflict", "failed: invalid", "failed: refused by Postgres"}[e]
}

// endOf returns the end of an item from its answer. It fails if the answer contradicts
// the verdict that the batch alone decides, or the item.
func endOf(told, decided intake.Verdict, i item) (end, error) {
	switch {
	case decided.Code == intake.CodeInvalid && told.Code == intake.CodeInvalid &&
		strings.HasPrefix(told.Text, "entity_type: "):
		return failed, nil
	case decided.Code != intake.CodePending && told == decided:
		return map[intake.Code]end{intake.CodeDuplicateInRequest: repeated,
			intake.CodeConflictInRequest: conflict}[told.Code], nil
	case decided.Code != intake.CodePending:
	case told.Code == intake.CodePending:
		return unknown, nil
	case i.flaw == unwanted && told.Code == intake.CodeRefused && told.Text != "":
		return declined, nil
	case told == intake.Verdict{Code: intake.CodeSaved} && i.flaw == flawless:
		return saved, nil
	case told == intake.DuplicateOfSaved(true):
		return same, nil
	case told == intake.DuplicateOfSaved(false):
		return different, nil
	}
	return unknown, fmt.Errorf("%s is %s %q", i.key, told.Code, told.Text)
}
