package front

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"intake/cmd/intake/internal/auth"
	"intake/cmd/intake/internal/problem"
	"intake/internal/decode"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.uber.org/zap"

	"intake"
)

// Records knows what was saved.
type Records interface {
	// Records gives those records of a partner that have one of the ids.
	Records(ctx context.Context, partner int32, ids []string) ([]intake.Record, error)
	// Record gives one of them, and how many claims it has.
	Record(ctx context.Context, partner int32, id string) (r intake.Record, claims int, ok bool, err error)
}

// recordPath is where to ask for a record, by its partner_client_id.
const (
	recordPath  = "/api/v1/clients/"
	recordRoute = recordPath + "{partner_client_id}"
)

// recordsTimeout bounds a question for records.
const recordsTimeout = 10 * time.Second

var (
	errNoRecord  = &problem.Problem{Code: problem.NoClient, Detail: "no partner client with this partner_client_id is saved"}
	errNoRecords = &problem.Problem{Code: problem.StoreUnavailable, RetryAfter: time.Second, Detail: "what is saved can't be told now; nothing of this request was saved or queued"}
)

// canBeSaved tells whether a text can be the id of a record at all.
func canBeSaved(id string) bool {
	return id != "" && utf8.ValidString(id) && strings.IndexByte(id, 0) < 0
}

// A recordAnswer is what is told of a record.
type recordAnswer struct {
	ID          string    `json:"partner_client_id"`
	Fingerprint string    `json:"fingerprint"`
	Claims      int       `json:"revenue_claims"`
	SavedAt     time.Time `json:"saved_at"`
	Batch       string    `json:"status_check_id"`
	Item        int       `json:"item"`
}

// record is GET /api/v1/clients/{partner_client_id}.
func (f *Front) record(w http.ResponseWriter, r *http.Request) {
	who, ok := f.authenticate(w, r, auth.ScopeRead)
	if !ok {
		return
	}
	partner := who.Partner
	id, err := url.PathUnescape(strings.TrimPrefix(r.URL.EscapedPath(), recordPath))
	if err != nil || !canBeSaved(id) {
		errNoRecord.Write(w)
		return
	}
	slot, refusal := f.enter(r.Context(), &partner)
	if refusal != nil {
		refusal.Write(w)
		return
	}
	defer slot.Leave()
	share := f.questions.share(partner.ID)
	defer share.release()
	if !share.add(questionBytes) {
		errNoRoom.Write(w)
		return
	}
	asking, cancel := context.WithTimeout(r.Context(), recordsTimeout)
	defer cancel()
	record, claims, ok, err := f.opts.Questions.Record(asking, partner.ID, id)
	switch {
	case err != nil:
		f.opts.Logger.Warn("cannot read a record", zap.Error(err))
		errNoRecords.Write(w)
	case !ok:
		errNoRecord.Write(w)
	default:
		writeJSON(w, recordAnswer{
			ID: record.ID, Fingerprint: hex.EncodeToString(record.Fingerprint[:]), Claims: claims,
			SavedAt: record.SavedAt.UTC(), Batch: record.Batch.String(), Item: record.Item,
		})
	}
}

func writeJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	_ = json.NewEncoder(w).Encode(value) // a client that is gone needs no answer
}

// What reconcile says of an entry.
const (
	recordMissing   = "missing"
	recordSaved     = "saved" // the entry was an id only
	recordSame      = "saved_same"
	recordDifferent = "saved_different"
	recordInvalid   = "invalid"
)

// An entry is one of those that reconcile is asked for.
type entry struct {
	id          string
	fingerprint *intake.Fingerprint // of its data, if it came with any
	reason      string              // why it can't be looked up
}

// reconcile is POST /api/v1/clients/reconcile.
func (f *Front) reconcile(w http.ResponseWriter, r *http.Request) {
	who, ok := f.authenticate(w, r, auth.ScopeRead)
	if !ok {
		return
	}
	partner := who.Partner
	share := f.budget.share(partner.ID)
	defer share.release()
	body, slot, refusal := f.readLimited(w, r, &partner, share)
	if refusal != nil {
		refusal.Write(w)
		return
	}
	defer slot.Leave()
	entries, usage, refusal := f.readEntries(r.Context(), &partner, *body, share)
	putBody(body)
	if refusal != nil {
		refusal.Write(w)
		return
	}
	usage.set(w.Header())
	var ids []string
	for i := range entries {
		if entries[i].reason == "" && canBeSaved(entries[i].id) {
			ids = append(ids, entries[i].id)
		}
	}
	records, refusal := f.recordsOf(r.Context(), partner.ID, ids)
	if refusal != nil {
		refusal.Write(w)
		return
	}
	text := reconciled(entries, records)
	share.keep(int64(cap(text))) // the rest isn't needed while the client takes the answer
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	if err := limitWrite(w, len(text)); err == nil {
		_, _ = w.Write(text)
	}
}

// readEntries reads the entries in a body. They keep nothing of it, and leave the
// room that it has to batches.
func (f *Front) readEntries(ctx context.Context, partner *intake.Partner, body []byte, share *share) ([]entry, *usage, *problem.Problem) {
	items, err := f.decode(body, partner, time.Now())
	if err != nil {
		return nil, nil, decodeProblem(err)
	}
	usage, refusal := f.takeItems(ctx, partner, len(items), false)
	if refusal != nil {
		return nil, nil, refusal
	}
	if !share.addItems(items) {
		return nil, nil, f.full()
	}
	const entryBytes = 1 << 10 // with its record and its part of the answer, but without its ids in them
	size := int64(questionBytes + entryBytes*len(items))
	entries := make([]entry, len(items))
	for i := range items {
		entries[i] = readEntry(&items[i])
		size += 4 * int64(len(entries[i].id))
	}
	if !share.moveTo(f.questions, size) {
		return nil, nil, errNoRoom
	}
	return entries, usage, nil
}

// readEntry reads an entry: an id, or an item as it would be sent.
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

// recordsOf gives the records that there are, by their ids.
func (f *Front) recordsOf(ctx context.Context, partner int32, ids []string) (map[string]*intake.Record, *problem.Problem) {
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

// reconciled gives the answer: how many entries there are of each kind, and each
// one in the order of the request.
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

// validate gives the verdicts that a batch would get, and queues nothing of it.
// While it asks the data store it takes the room of a question.
func (f *Front) validate(ctx context.Context, share *share, bodyBytes int, batch *intake.Batch) *problem.Problem {
	f.judge(ctx, batch, false)
	type asked struct {
		item        int
		fingerprint intake.Fingerprint
	}
	var pending []asked
	var ids []string
	size := int64(bodyBytes)
	for i := range batch.Items {
		item := &batch.Items[i]
		if batch.Verdicts[i].Code == intake.CodePending {
			pending = append(pending, asked{i, item.Client.Fingerprint})
			ids = append(ids, item.Client.ID)
		}
		size += itemBytes + int64(len(item.Errors))
		item.Client = intake.PartnerClient{} // from here on only the text is needed
	}
	if len(pending) == 0 {
		return nil
	}
	if !share.moveTo(f.questions, size) {
		return errNoRoom
	}
	records, refusal := f.recordsOf(ctx, batch.Partner.ID, ids)
	if refusal != nil {
		return refusal
	}
	for i, p := range pending {
		if record := records[ids[i]]; record != nil {
			batch.Verdicts[p.item] = intake.DuplicateOfSaved(record.Fingerprint == p.fingerprint)
		} else {
			batch.Verdicts[p.item] = intake.Verdict{Code: intake.CodeWouldBeSaved}
		}
	}
	return nil
}
