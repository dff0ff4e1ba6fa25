package sender

import (
	"bytes"
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
	"intake/internal/client"
)

// A Report counts the states of the items, and lists, in the order of the
// batches, those whose data is not in the data store. It is safe for concurrent
// use.
type Report struct {
	out      io.Writer
	json     bool
	progress func(bytes, items int64)
	began    time.Time

	mu     sync.Mutex
	totals Totals
	next   int            // the order of the batch whose lines come next
	lines  map[int][]byte // of later batches, by their order
}

// Totals are the end of a report.
type Totals struct {
	Batches int            `json:"batches"`
	Items   int            `json:"items"`
	Codes   map[string]int `json:"codes,omitempty"`
	// Records counts the items that were compared with the saved ones, by the
	// result.
	Records map[string]int `json:"records,omitempty"`
	// NotSaved counts the items whose data is not in the data store, and
	// Refused the batches that were refused as a whole.
	NotSaved int     `json:"not_saved"`
	Refused  int     `json:"refused_batches"`
	Seconds  float64 `json:"seconds"`
}

// NewReport returns a report that lists on out, as text or as one JSON object a
// line. progress, if not nil, is called with each step forward.
func NewReport(out io.Writer, asJSON bool, progress func(bytes, items int64)) *Report {
	if progress == nil {
		progress = func(int64, int64) {}
	}
	return &Report{
		out: out, json: asJSON, progress: progress, began: time.Now(),
		totals: Totals{Codes: make(map[string]int), Records: make(map[string]int)}, lines: make(map[int][]byte),
	}
}

// IsSaved reports whether every item is in the data store with its data.
func (r *Report) IsSaved() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.totals.NotSaved == 0 && r.totals.Refused == 0
}

func (r *Report) read(bytes int64) { r.progress(bytes, 0) }

// write writes a batch's lines, and those of the batches that follow it; or keeps
// them until those before are written. The caller holds mu.
func (r *Report) write(batch Batch, lines []byte) error {
	r.lines[batch.order] = lines
	for {
		lines, ok := r.lines[r.next]
		if !ok {
			return nil
		}
		delete(r.lines, r.next)
		r.next++
		if _, err := r.out.Write(lines); err != nil {
			return err
		}
	}
}

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

func (r *Report) add(batch Batch, answer *client.Answer) error {
	var ids []struct {
		ID any `json:"partner_client_id"`
	}
	var lines bytes.Buffer
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count(len(answer.Result))
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
		if err := r.list(&lines, item); err != nil {
			return err
		}
	}
	return r.write(batch, lines.Bytes())
}

func (r *Report) count(items int) {
	r.totals.Batches++
	r.totals.Items += items
	r.progress(0, int64(items))
}

func (r *Report) addRecords(batch Batch, records *client.Records) error {
	var lines bytes.Buffer
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count(len(records.Result))
	for i, result := range records.Result {
		r.totals.Records[result.Record]++
		if result.Record == "saved_same" {
			continue
		}
		r.totals.NotSaved++
		if !r.json {
			said := strings.TrimSpace(result.Record + " " + result.Detail)
			fmt.Fprintf(&lines, "%s batch %d item %d %q: %s\n", batch.File, batch.Number, i, result.ID, said)
			continue
		}
		if err := json.NewEncoder(&lines).Encode(map[string]any{
			"file": batch.File, "batch": batch.Number, "item": i, "partner_client_id": result.ID,
			"record": result.Record,
		}); err != nil {
			return err
		}
	}
	return r.write(batch, lines.Bytes())
}

// isSaved reports whether an item's data is in the data store, or would be. A
// duplicate within the request is as good as the first one, which is listed if it
// isn't saved.
func isSaved(code intake.Code, reason string) bool {
	switch code {
	case intake.CodeSaved, intake.CodeWouldBeSaved, intake.CodeDuplicateInRequest:
		return true
	case intake.CodeDuplicateOfSaved:
		return reason == intake.DuplicateOfSaved(true).Text
	}
	return false
}

func (r *Report) list(lines io.Writer, item notSaved) error {
	if r.json {
		return json.NewEncoder(lines).Encode(item)
	}
	id, err := json.Marshal(item.ID)
	if err != nil {
		return err
	}
	// The text of a conflict begins with the state's name.
	reason := strings.TrimPrefix(item.Reason, strings.ToLower(string(item.State))+": ")
	_, err = fmt.Fprintf(lines, "%s batch %d item %d %s: %s: %s\n",
		item.File, item.Batch, item.Item, id, item.State, reason)
	return err
}

// refused reports a batch that was refused as a whole.
func (r *Report) refused(batch Batch, reason error) error {
	var lines bytes.Buffer
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count(0)
	r.totals.Refused++
	if !r.json {
		fmt.Fprintf(&lines, "%s batch %d was refused: %v\n", batch.File, batch.Number, reason)
	} else if err := json.NewEncoder(&lines).Encode(map[string]any{
		"file": batch.File, "batch": batch.Number, "refused": reason.Error(),
	}); err != nil {
		return err
	}
	return r.write(batch, lines.Bytes())
}

// Finish prints what is left to be listed, and the totals. As text it prints none
// if there was no batch.
func (r *Report) Finish() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, order := range slices.Sorted(maps.Keys(r.lines)) { // of those before some have no end
		if _, err := r.out.Write(r.lines[order]); err != nil {
			return err
		}
	}
	clear(r.lines)
	r.totals.Seconds = time.Since(r.began).Seconds()
	switch {
	case r.json:
		return json.NewEncoder(r.out).Encode(r.totals)
	case r.totals.Batches > 0:
		r.printTotals()
	}
	return nil
}

func (r *Report) printTotals() {
	t := table.NewWriter()
	t.SetOutputMirror(r.out)
	t.SetStyle(table.StyleLight)
	t.Style().Format.Footer = text.FormatDefault
	const right = text.AlignRight
	t.SetColumnConfigs([]table.ColumnConfig{
		{Number: 1, Align: text.AlignLeft, AlignHeader: text.AlignLeft},
		{Name: "items", Align: right, AlignHeader: right, AlignFooter: right},
	})
	noun := "batches"
	if r.totals.Batches == 1 {
		noun = "batch"
	}
	total := fmt.Sprintf("%d %s in %.1f s", r.totals.Batches, noun, r.totals.Seconds)
	if len(r.totals.Records) > 0 {
		t.AppendHeader(table.Row{"record", "items"})
		for _, record := range slices.Sorted(maps.Keys(r.totals.Records)) {
			t.AppendRow(table.Row{record, r.totals.Records[record]})
		}
		t.AppendFooter(table.Row{total, r.totals.Items})
	} else {
		t.AppendHeader(table.Row{"state", "code", "items"})
		for _, code := range slices.Sorted(codes(r.totals.Codes)) {
			t.AppendRow(table.Row{code.State(), code.String(), r.totals.Codes[code.String()]})
		}
		t.AppendFooter(table.Row{total, "", r.totals.Items})
	}
	t.Render()
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
