package sender

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"intake"
)

// A Report counts what became of the items, and lists those whose data is not
// in the data store.
type Report struct {
	out      io.Writer
	json     bool
	progress func(bytes, items int64)
	began    time.Time

	mu     sync.Mutex
	totals Totals
}

// Totals are the end of a report.
type Totals struct {
	Batches int            `json:"batches"`
	Items   int            `json:"items"`
	Codes   map[string]int `json:"codes,omitempty"`
	// Records counts the items that were compared with what is saved, by what
	// came of it.
	Records map[string]int `json:"records,omitempty"`
	// NotSaved counts the items whose data is not in the data store, and
	// Refused the batches that were refused as a whole.
	NotSaved int     `json:"not_saved"`
	Refused  int     `json:"refused_batches"`
	Seconds  float64 `json:"seconds"`
}

// NewReport makes a report that lists on out, as text or as one JSON object a
// line. progress, if not nil, hears of each step forward.
func NewReport(out io.Writer, asJSON bool, progress func(bytes, items int64)) *Report {
	if progress == nil {
		progress = func(int64, int64) {}
	}
	return &Report{out: out, json: asJSON, progress: progress, began: time.Now(), totals: Totals{Codes: make(map[string]int), Records: make(map[string]int)}}
}

// IsSaved tells whether every item is in the data store with its data.
func (r *Report) IsSaved() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.totals.NotSaved == 0 && r.totals.Refused == 0
}

func (r *Report) read(bytes int64) { r.progress(bytes, 0) }

// A notSaved item is one whose data is not in the data store.
type notSaved struct {
	File   string       `json:"file"`
	Batch  int          `json:"batch"`
	Item   int          `json:"item"`
	ID     any          `json:"partner_client_id"`
	State  intake.State `json:"state"`
	Code   intake.Code  `json:"code"`
	Reason string       `json:"reason"`
}

func (r *Report) add(batch Batch, answer *Answer) error {
	var ids []struct {
		ID any `json:"partner_client_id"`
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.totals.Batches++
	r.totals.Items += len(answer.Result)
	r.progress(0, int64(len(answer.Result)))
	for i := range answer.Result {
		status := &answer.Result[i].Status
		r.totals.Codes[status.Code.String()]++
		if isSaved(status.Code, status.Reason) {
			continue
		}
		if ids == nil {
			// An item that isn't an object has no id, which is no error here.
			_ = json.Unmarshal(batch.Items, &ids)
		}
		item := notSaved{batch.File, batch.Number, i, nil, status.State, status.Code, status.Reason}
		if i < len(ids) {
			item.ID = ids[i].ID
		}
		r.totals.NotSaved++
		if err := r.list(item); err != nil {
			return err
		}
	}
	return nil
}

func (r *Report) addRecords(batch Batch, records *Records) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.totals.Batches++
	r.totals.Items += len(records.Result)
	r.progress(0, int64(len(records.Result)))
	for i, result := range records.Result {
		r.totals.Records[result.Record]++
		if result.Record == "saved_same" {
			continue
		}
		r.totals.NotSaved++
		var err error
		if r.json {
			err = json.NewEncoder(r.out).Encode(map[string]any{
				"file": batch.File, "batch": batch.Number, "item": i, "partner_client_id": result.ID, "record": result.Record,
			})
		} else {
			_, err = fmt.Fprintf(r.out, "%s batch %d item %d %q: %s\n", batch.File, batch.Number, i, result.ID, strings.TrimSpace(result.Record+" "+result.Detail))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// isSaved tells whether an item's data is in the data store, or would be. A
// duplicate within the request has its first one to speak for it.
func isSaved(code intake.Code, reason string) bool {
	switch code {
	case intake.CodeSaved, intake.CodeWouldBeSaved, intake.CodeDuplicateInRequest:
		return true
	case intake.CodeDuplicateOfSaved:
		return reason == intake.DuplicateOfSaved(true).Text
	}
	return false
}

func (r *Report) list(item notSaved) error {
	if r.json {
		return json.NewEncoder(r.out).Encode(item)
	}
	id, err := json.Marshal(item.ID)
	if err == nil {
		_, err = fmt.Fprintf(r.out, "%s batch %d item %d %s: %s: %s\n", item.File, item.Batch, item.Item, id, item.State, item.Reason)
	}
	return err
}

func (r *Report) refused(batch Batch, reason error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.totals.Batches++
	r.totals.Refused++
	if r.json {
		_ = json.NewEncoder(r.out).Encode(map[string]any{"file": batch.File, "batch": batch.Number, "refused": reason.Error()})
		return
	}
	fmt.Fprintf(r.out, "%s batch %d was refused: %v\n", batch.File, batch.Number, reason)
}

// Finish prints the totals.
func (r *Report) Finish() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.totals.Seconds = time.Since(r.began).Seconds()
	if r.json {
		return json.NewEncoder(r.out).Encode(r.totals)
	}
	t := table.NewWriter()
	t.SetOutputMirror(r.out)
	t.SetStyle(table.StyleLight)
	t.Style().Format.Footer = text.FormatDefault
	t.AppendHeader(table.Row{"state", "code", "items"})
	t.SetColumnConfigs([]table.ColumnConfig{{Name: "items", Align: text.AlignRight, AlignFooter: text.AlignRight}})
	for _, code := range slices.Sorted(codes(r.totals.Codes)) {
		t.AppendRow(table.Row{code.State(), code.String(), r.totals.Codes[code.String()]})
	}
	for _, record := range slices.Sorted(maps.Keys(r.totals.Records)) {
		t.AppendRow(table.Row{"", record, r.totals.Records[record]})
	}
	t.AppendFooter(table.Row{fmt.Sprintf("%d batches in %.1f s", r.totals.Batches, r.totals.Seconds), "", r.totals.Items})
	t.Render()
	return nil
}

func codes(counts map[string]int) func(func(intake.Code) bool) {
	return func(yield func(intake.Code) bool) {
		for name := range counts {
			var code intake.Code
			if code.UnmarshalText([]byte(name)) == nil && !yield(code) {
				return
			}
		}
	}
}
