package intake_test

import (
	"strings"
	"testing"

	"intake"
)

// The texts are the contract's own.
func TestVerdicts(t *testing.T) {
	for _, test := range []struct {
		got  intake.Verdict
		code intake.Code
		text string
	}{
		{intake.DuplicateInRequest(3), intake.CodeDuplicateInRequest, "duplicate of item 3 in this request"},
		{intake.DuplicateOfSaved(true), intake.CodeDuplicateOfSaved, "already saved with the same data"},
		{intake.DuplicateOfSaved(false), intake.CodeDuplicateOfSaved,
			"already saved with different data; the saved record was not changed"},
		{intake.ConflictInRequest([]int{0, 1}, "X"), intake.CodeConflictInRequest,
			`conflict: items 0 and 1 share partner_client_id "X" but their data differs`},
		{intake.ConflictInRequest([]int{2, 5, 9}, "X"), intake.CodeConflictInRequest,
			`conflict: items 2, 5 and 9 share partner_client_id "X" but their data differs`},
		{
			intake.ConflictInRequest([]int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, "X"), intake.CodeConflictInRequest,
			`conflict: items 0, 1, 2, 3, 4, 5, 6, 7, 8 and 9 share partner_client_id "X" but their data differs`,
		},
		{
			intake.ConflictInRequest([]int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, "X"), intake.CodeConflictInRequest,
			`conflict: items 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more share partner_client_id "X" but their data differs`,
		},
		{
			intake.ConflictInRequest([]int{0, 1}, strings.Repeat("é", 129)+"\x00"), intake.CodeConflictInRequest,
			`conflict: items 0 and 1 share partner_client_id "` + strings.Repeat("é",
				128) + `"… but their data differs`,
		},
		{intake.Invalid("x: required"), intake.CodeInvalid, "x: required"},
		{intake.Refused("too large"), intake.CodeRefused, "the data store refused this item: too large"},
	} {
		if test.got.Code != test.code || test.got.Text != test.text {
			t.Errorf("got %v, want %v %s", test.got, test.code, test.text)
		}
	}
}

func TestCode(t *testing.T) {
	for code, want := range map[intake.Code]struct {
		name  string
		state intake.State
	}{
		intake.CodePending:            {"pending", intake.Pending},
		intake.CodeSaved:              {"saved", intake.Completed},
		intake.CodeDuplicateInRequest: {"duplicate_in_request", intake.Duplicate},
		intake.CodeDuplicateOfSaved:   {"duplicate_of_saved", intake.Duplicate},
		intake.CodeConflictInRequest:  {"conflict_in_request", intake.Conflict},
		intake.CodeInvalid:            {"invalid", intake.Failed},
		intake.CodeRefused:            {"refused", intake.Failed},
		intake.CodeWouldBeSaved:       {"would_be_saved", intake.Completed},
	} {
		text, err := code.MarshalText()
		if err != nil || string(text) != want.name || code.String() != want.name || code.State() != want.state {
			t.Errorf("code %d: %s (%v), %v, want %v", code, text, err, code.State(), want)
		}
		var back intake.Code
		if err := back.UnmarshalText(text); err != nil || back != code {
			t.Errorf("%s is read as %v, %v", text, back, err)
		}
	}
	if _, err := intake.Code(8).MarshalText(); err == nil {
		t.Error("a code that is none was written")
	}
	if err := new(intake.Code).UnmarshalText([]byte("Saved")); err == nil {
		t.Error("a code that is none was read")
	}
}
