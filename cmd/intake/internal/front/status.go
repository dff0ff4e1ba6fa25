package front

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"intake"
	"intake/cmd/intake/internal/auth"
	"intake/cmd/intake/internal/limit"
	"intake/cmd/intake/internal/problem"
	"intake/worker/queue"
)

// statusTimeout bounds each look for a batch in each place.
const statusTimeout = 5 * time.Second

var (
	errNoBatch = problem.New(problem.NoBatch, "there is no batch with this id, or not any more")
	errLost    = problem.New(problem.BatchLost, "what became of a part of the batch is not known; send it again")
	errNoRoom  = problem.New(problem.NoMemory,
		"the server is at its memory limit for status checks and other questions").
		After(time.Second)
	errUnknown = problem.New(problem.StoreUnavailable,
		"the batch's status is temporarily unavailable").After(time.Second)
)

// A question is what a partner asks, while it is answered.
type question struct {
	partner intake.Partner
	memory  *memory
	slot    *limit.Slot
}

// ask admits a question. It must be closed.
func (f *Front) ask(r *http.Request, partner intake.Partner) (*question, error) {
	slot, err := f.enter(r.Context(), &partner)
	if err != nil {
		return nil, err
	}
	q := &question{partner: partner, memory: f.questions.memoryOf(partner.ID), slot: slot}
	if !q.memory.add(questionBytes) {
		q.close()
		return nil, errNoRoom
	}
	return q, nil
}

func (q *question) close() {
	q.memory.release()
	q.slot.Leave()
}

// status is GET /api/v1/clients/status/{id}.
func (f *Front) status(w http.ResponseWriter, r *http.Request) error {
	who, err := f.opts.Auth.Authenticate(r, auth.ScopeRead)
	if err != nil {
		return err
	}
	id, err := uuid.Parse(strings.TrimPrefix(r.URL.Path, statusPath))
	if err != nil || statusPath+id.String() != r.URL.Path {
		return errNoBatch
	}
	q, err := f.ask(r, who.Partner)
	if err != nil {
		return err
	}
	defer q.close()
	batch, err := f.recall(r.Context(), f.opts.Questions, q.memory, q.partner, id)
	if err != nil {
		return err
	}
	prefer := readPreferences(r.Header)
	if prefer.minimal {
		w.Header().Set("Preference-Applied", "return=minimal")
	}
	return f.answerObject(w, newObject(q.memory, batch, true, prefer.minimal), http.StatusOK, q.partner.Name)
}

// recall puts a batch together again, from what the data store knows of its end and what
// the log and the dead letters have of its beginning.
func (f *Front) recall(
	ctx context.Context, store Store, memory *memory, partner intake.Partner, id uuid.UUID,
) (*intake.Batch, error) {
	held := memory.held
	// Chunks go from the log to the data store or to the dead letters, and from there back
	// into the log, maybe to a place that was just looked at. So look again while chunks
	// are found that weren't before, and then where none can be missed. A chunk that is
	// nowhere by then is lost.
	for known := -1; ; {
		memory.keep(held)
		r, err := f.look(ctx, store, memory, queue.Search{Partner: partner, Batch: id, Sure: known >= 0})
		switch {
		case err != nil:
			return nil, err
		case r.isWhole():
			return r.batch(memory, partner, id)
		case r.known() > known:
			known = r.known()
		case known == 0:
			return nil, errNoBatch
		default:
			return nil, errLost
		}
	}
}

// look looks for the chunks of a batch everywhere, once. It takes no memory before the data
// store has answered.
func (f *Front) look(ctx context.Context, store Store, memory *memory, search queue.Search) (*recalled, error) {
	asking, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	finished, err := store.Finished(asking, search.Partner.ID, search.Batch)
	if err != nil {
		f.opts.Logger.Warn("cannot read the status of a batch", zap.Stringer("batch", search.Batch), zap.Error(err))
		return nil, errUnknown
	}
	r := &recalled{finished: make(map[int]intake.Finished, len(finished)), queued: make(map[int]queue.StoredChunk)}
	for _, chunk := range finished {
		r.finished[chunk.Chunk] = chunk
	}
	search.Decided = r.isFinished
	if err = f.lookInto(ctx, memory, f.opts.Queue.Logged, search, r); err == nil && !r.isWhole() {
		search.Skip = r.isKnown
		err = f.lookInto(ctx, memory, f.opts.Queue.Buried, search, r)
	}
	switch {
	case errors.Is(err, queue.ErrNoRoom):
		return nil, errNoRoom
	case err != nil && !r.isWhole():
		f.opts.Logger.Warn("cannot look for a batch in the queue", zap.Stringer("batch", search.Batch), zap.Error(err))
		return nil, errUnknown
	}
	return r, nil
}

// A searcher searches a part of the queue: Logged or Buried.
type searcher func(context.Context, queue.Search) ([]queue.StoredChunk, error)

// lookInto looks into a part of the queue, and waits for memory if it must.
func (f *Front) lookInto(ctx context.Context, memory *memory, search searcher, what queue.Search, r *recalled) error {
	asking, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	what.Room = func(bytes int64) bool {
		if bytes < 0 {
			memory.giveBack(-bytes)
			return true
		}
		return waitRoom(asking, func() bool { return memory.add(bytes) })
	}
	chunks, err := search(asking, what)
	for _, chunk := range chunks {
		r.queued[chunk.Number] = chunk
	}
	return err
}

// A recalled is what is known of a batch, by the number of the chunk.
type recalled struct {
	finished map[int]intake.Finished
	queued   map[int]queue.StoredChunk
}

func (r *recalled) isFinished(number int) bool { _, ok := r.finished[number]; return ok }

func (r *recalled) isKnown(number int) bool {
	_, ok := r.queued[number]
	return ok || r.isFinished(number)
}

// chunks returns how many chunks the batch has, at least: where none of them can be read,
// only their numbers are known.
func (r *recalled) chunks() (n int) {
	for number, chunk := range r.finished {
		n = max(n, number+1, chunk.Chunks)
	}
	for number, chunk := range r.queued {
		n = max(n, number+1, chunk.Chunks)
	}
	return n
}

// known returns how many of them are known.
func (r *recalled) known() (n int) {
	for number := range r.chunks() {
		if r.isKnown(number) {
			n++
		}
	}
	return n
}

func (r *recalled) isWhole() bool {
	return len(r.finished)+len(r.queued) > 0 && r.known() == r.chunks()
}

// batch puts a batch together that is whole.
func (r *recalled) batch(memory *memory, partner intake.Partner, id uuid.UUID) (*intake.Batch, error) {
	size, bytes := 0, int64(0)
	for number := range r.chunks() {
		finished, queued := r.finished[number], r.queued[number]
		switch {
		case finished.Len > 0:
			size = max(size, finished.First+finished.Len)
			bytes += sizeOfFinished(&finished)
		case queued.Chunk != nil && queued.Len > 0:
			size = max(size, queued.First+queued.Len)
		default: // it can't be read, and has an item at least
			size++
		}
	}
	if !memory.add(bytes + int64(size)*itemBytes) {
		return nil, errNoRoom
	}
	batch := &intake.Batch{
		ID: id, Partner: partner, Items: make([]intake.Item, size), Verdicts: make([]intake.Verdict, size),
	}
	for number, chunk := range r.queued {
		finished := r.finished[number]
		if finished.Len == 0 || finished.First == chunk.First && finished.Len == chunk.Len {
			recallItems(batch, chunk)
		}
	}
	for _, chunk := range r.finished {
		recallVerdicts(batch, chunk)
	}
	for i := range batch.Items {
		if item := &batch.Items[i]; len(item.Raw) == 0 {
			item.Raw = idOnly(item.Key)
		}
	}
	return batch, nil
}

func sizeOfFinished(chunk *intake.Finished) (bytes int64) {
	for i := range chunk.NotSaved {
		bytes += int64(len(chunk.NotSaved[i].Text))
	}
	for _, key := range chunk.Keys {
		bytes += int64(len(key))
	}
	return bytes
}

// recallItems fills in the items as they were sent, and the verdicts that they
// had when they were queued.
func recallItems(batch *intake.Batch, chunk queue.StoredChunk) {
	for i, raw := range chunk.Items {
		batch.Items[chunk.First+i].Raw = raw
	}
	for i := range chunk.Clients {
		batch.Items[chunk.Clients[i].Item].Key = chunk.Clients[i].ID
	}
	for i, rejected := range chunk.Rejected {
		batch.Verdicts[rejected.Item] = rejected.Verdict
		batch.Items[rejected.Item].Key = chunk.RejectedKeys[i]
	}
}

// recallVerdicts fills in the final verdicts, and the keys of the items.
func recallVerdicts(batch *intake.Batch, chunk intake.Finished) {
	for i := range chunk.Len {
		batch.Verdicts[chunk.First+i] = intake.Verdict{Code: intake.CodeSaved}
		if key := chunk.Keys[i]; key != "" {
			batch.Items[chunk.First+i].Key = key
		}
	}
	for _, v := range chunk.NotSaved {
		batch.Verdicts[v.Item] = v.Verdict
	}
}

// idOnly returns what stands for an item that isn't kept any more.
func idOnly(key string) []byte {
	if key == "" {
		return []byte("{}")
	}
	return append(appendString([]byte(`{"partner_client_id":`), key), '}')
}
