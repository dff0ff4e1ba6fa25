package front

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.uber.org/zap"

	"intake"
	"intake/cmd/intake/internal/auth"
	"intake/cmd/intake/internal/problem"
	"intake/internal/decode"
)

// recordsTimeout bounds a question for records.
const recordsTimeout = 10 * time.Second

var (
	errNoRecord  = problem.New(problem.NoClient, "no partner client with this partner_client_id is saved")
	errNoRecords = problem.New(problem.StoreUnavailable,
		"saved records are temporarily unavailable; nothing of this request was saved or queued").After(time.Second)
)

// canBeSaved reports whether a text can be the id of a record at all.
func canBeSaved(id string) bool {
	return id != "" && utf8.ValidString(id) && strings.IndexByte(id, 0) < 0
}

// A recordAnswer is the answer about a record.
type recordAnswer struct {
	ID          string    `json:"partner_client_id"`
	Fingerprint string    `json:"fingerprint"`
	Claims      int       `json:"revenue_claims"`
	SavedAt     time.Time `json:"saved_at"`
	Batch       string    `json:"status_check_id"`
	Item        int       `json:"item"`
}

// record is GET /api/v1/clients/{partner_client_id}.
func (f *Front) record(w http.ResponseWriter, r *http.Request) error {
	who, err := f.opts.Auth.Authenticate(r, auth.ScopeRead)
	if err != nil {
		return err
	}
	id, err := url.PathUnescape(strings.TrimPrefix(r.URL.EscapedPath(), recordPath))
	if err != nil || !canBeSaved(id) {
		return errNoRecord
	}
	q, err := f.ask(r, who.Partner)
	if err != nil {
		return err
	}
	defer q.close()
	asking, cancel := context.WithTimeout(r.Context(), recordsTimeout)
	defer cancel()
	record, claims, ok, err := f.opts.Questions.Record(asking, q.partner.ID, id)
	if err != nil {
		f.opts.Logger.Warn("cannot read a record", zap.Error(err))
		return errNoRecords
	}
	if !ok {
		return errNoRecord
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	_ = json.NewEncoder(w).Encode(recordAnswer{ // a client that is gone needs no answer
		ID: record.ID, Fingerprint: hex.EncodeToString(record.Fingerprint[:]), Claims: claims,
		SavedAt: record.SavedAt.UTC(), Batch: record.Batch.String(), Item: record.Item,
	})
	return nil
}

// What reconcile answers about an entry.
const (
	recordMissing   = "missing"
	recordSaved     = "saved" // the entry was an id only
	recordSame      = "saved_same"
	recordDifferent = "saved_different"
	recordInvalid   = "invalid"
)

// An entry is an id or an item that reconcile is asked about.
type entry struct {
	id          string
	fingerprint *intake.Fingerprint // of its data, if it came with any
	reason      string              // why it can't be looked up
}

// reconcile is POST /api/v1/clients/reconcile.
func (f *Front) reconcile(w http.ResponseWriter, r *http.Request) error {
	who, err := f.opts.Auth.Authenticate(r, auth.ScopeRead)
	if err != nil {
		return err
	}
	partner := who.Partner
	memory := f.budget.memoryOf(partner.ID)
	defer memory.release()
	body, slot, err := f.readLimited(w, r, &partner, memory)
	if err != nil {
		return err
	}
	defer slot.Leave()
	entries, usage, err := f.readEntries(r.Context(), &partner, body, memory)
	putBody(body)
	if err != nil {
		return err
	}
	var ids []string
	for i := range entries {
		if entries[i].reason == "" && canBeSaved(entries[i].id) {
			ids = append(ids, entries[i].id)
		}
	}
	records, err := f.recordsOf(r.Context(), partner.ID, ids)
	if err != nil {
		return usage.on(err)
	}
	text := reconciled(entries, records)
	memory.keep(int64(cap(text))) // the rest isn't needed while the client reads the answer
	usage.set(w.Header())
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	if err := limitWrite(w, len(text)); err == nil {
		_, _ = w.Write(text)
	}
	return nil
}

// readEntries decodes the entries in a body. They keep nothing of it, and their memory is
// that of a question, so that batches may have the body's.
func (f *Front) readEntries(
	ctx context.Context, partner *intake.Partner, body []byte, memory *memory,
) ([]entry, *usage, error) {
	items, err := f.decode(body, partner, time.Now())
	if err != nil {
		return nil, nil, decodeProblem(err)
	}
	usage, err := f.spendRate(ctx, partner, len(items), false)
	if err != nil {
		return nil, nil, err
	}
	if !memory.addItems(items) {
		return nil, nil, f.full()
	}
	const entryBytes = 1 << 10 // with its record and its part of the answer, but without its ids in them
	size := int64(questionBytes + entryBytes*len(items))
	entries := make([]entry, len(items))
	for i := range items {
		entries[i] = readEntry(&items[i])
		size += 4 * int64(len(entries[i].id))
	}
	if !memory.moveTo(f.questions, size) {
		return nil, nil, errNoRoom
	}
	return entries, usage, nil
}

// readEntry returns an entry: an id, or an item as it would be sent.
func readEntry(item *intake.Item) entry {
	if item.Raw[0] == '"' {
		var id string
		_ = json.Unmarshal(item.Raw, &id) // it was decoded as JSON before
		if id == "" {
			return entry{reason: "must not be empty"}
		}
		return entry{id: id}
	}
	if item.Key == "" {
		return entry{reason: "must be a partner_client_id, or an item that has one"}
	}
	fingerprint := item.Client.Fingerprint
	if item.Errors != "" {
		fingerprint = decode.Fingerprint(item.Raw)
	}
	return entry{id: strings.Clone(item.Key), fingerprint: &fingerprint}
}

// recordsOf returns those records that exist, by id.
func (f *Front) recordsOf(ctx context.Context, partner int32, ids []string) (map[string]*intake.Record, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	asking, cancel := context.WithTimeout(ctx, recordsTimeout)
	defer cancel()
	records, err := f.opts.Questions.Records(asking, partner, ids)
	if err != nil {
		f.opts.Logger.Warn("cannot read records", zap.Error(err))
		return nil, errNoRecords
	}
	byID := make(map[string]*intake.Record, len(records))
	for i := range records {
		byID[records[i].ID] = &records[i]
	}
	return byID, nil
}

// reconciled returns the answer: how many entries there are of each kind, and each one in
// the order of the request.
func reconciled(entries []entry, records map[string]*intake.Record) []byte {
	counts := make(map[string]int)
	list := make([]byte, 0, 200*len(entries))
	for i := range entries {
		e := &entries[i]
		kind, record := recordMissing, records[e.id]
		switch {
		case e.reason != "":
			kind = recordInvalid
		case record == nil:
		case e.fingerprint == nil:
			kind = recordSaved
		case *e.fingerprint == record.Fingerprint:
			kind = recordSame
		default:
			kind = recordDifferent
		}
		counts[kind]++
		if i > 0 {
			list = append(list, ',')
		}
		list = append(list, `{"record":"`+kind+`"`...)
		if e.reason != "" {
			list = appendString(append(list, `,"detail":`...), e.reason)
		} else {
			list = appendString(append(list, `,"partner_client_id":`...), e.id)
		}
		if record != nil {
			list = append(list, `,"fingerprint":"`...)
			list = hex.AppendEncode(list, record.Fingerprint[:])
			list = append(list, `","saved_at":"`...)
			list = record.SavedAt.UTC().AppendFormat(list, time.RFC3339Nano)
			list = append(list, '"')
		}
		list = append(list, '}')
	}
	text := []byte{'{'}
	for _, kind := range []string{recordMissing, recordSaved, recordSame, recordDifferent, recordInvalid} {
		text = strconv.AppendInt(append(text, `"`+kind+`":`...), int64(counts[kind]), 10)
		text = append(text, ',')
	}
	text = append(append(text, `"result":[`...), list...)
	return append(text, "]}\n"...)
}

// validate decides on the batch as if it were queued, and queues nothing of it. While
// it asks the data store it holds the memory of a question.
func (q *request) validate(ctx context.Context) error {
	q.judge(ctx, false)
	type asked struct {
		item        int
		fingerprint intake.Fingerprint
	}
	var pending []asked
	var ids []string
	size := int64(cap(q.body))
	for i := range q.Items {
		item := &q.Items[i]
		if q.Verdicts[i].Code == intake.CodePending {
			pending = append(pending, asked{i, item.Client.Fingerprint})
			ids = append(ids, item.Client.ID)
		}
		size += itemBytes + int64(len(item.Errors))
	}
	q.forgetClients()
	if len(pending) == 0 {
		return nil
	}
	if !q.memory.moveTo(q.front.questions, size) {
		return errNoRoom
	}
	records, err := q.front.recordsOf(ctx, q.Partner.ID, ids)
	if err != nil {
		return err
	}
	for i, p := range pending {
		if record := records[ids[i]]; record != nil {
			q.Verdicts[p.item] = intake.DuplicateOfSaved(record.Fingerprint == p.fingerprint)
		} else {
			q.Verdicts[p.item] = intake.Verdict{Code: intake.CodeWouldBeSaved}
		}
	}
	return nil
}
