package front_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/uuid"

	"intake"
	"intake/internal/local/localtest"
	"intake/worker/queue"
)

// A silent body is one of which the beginning has been sent, packed, and nothing comes
// after it.
type silentBody struct {
	send    *io.PipeWriter
	refused chan struct{} // closed when it is answered
}

// silent sends the beginning of a body that unpacks to size bytes.
func (f *testFront) silent(t *testing.T, ctx context.Context, token string, size int) *silentBody {
	t.Helper()
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = z.Write(bytes.Repeat([]byte{' '}, size))
	_ = z.Flush()
	body, send := io.Pipe()
	s := &silentBody{send: send, refused: make(chan struct{})}
	context.AfterFunc(ctx, func() { send.CloseWithError(io.ErrUnexpectedEOF) })
	request := f.create(t, token, body, "Content-Encoding", "gzip").WithContext(ctx)
	go func() {
		defer close(s.refused)
		_, _ = f.try(request)
	}()
	_, _ = send.Write(packed.Bytes())
	return s
}

func (s *silentBody) isRefused() bool {
	select {
	case <-s.refused:
		return true
	default:
		return false
	}
}

// A partner whose bodies unpack to all the memory that there is, and are silent then,
// keeps no other one out.
func TestCreate_OnePartnerTakesTheMemory(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	other := f.registry.Add("other")
	f.reload(t)
	ctx, leave := context.WithCancel(t.Context())
	token := f.token(t)
	var attack []*silentBody
	hold := func(size int) {
		before := f.Inflight()
		s := f.silent(t, ctx, token, size-100)
		attack = append(attack, s)
		localtest.Eventually(t, "the body is refused, or has memory", func() bool {
			return s.isRefused() ||
				f.Inflight() >= before+3*int64(size)
		})
	}
	hold(32 << 20)
	hold(32 << 20)
	for size := 8 << 20; size >= 16<<10; size /= 2 {
		hold(size)
		hold(size)
	}
	for _, size := range []int{1 << 10, 100 << 10, 1 << 20, 10 << 20} {
		body := "[" + strings.Repeat(" ", size) + items("a")[1:]
		if a := f.do(t, f.create(t, f.tokenOf(t, "other", other), strings.NewReader(body))); a.status != http.StatusOK {
			t.Errorf("another partner's batch of %d bytes is answered %d %s", size, a.status, a.Bytes())
		}
	}
	leave()
	for _, s := range attack {
		<-s.refused
	}
}

// A partner's bytes in flight are those that a body unpacks to, as soon as they are
// there.
func TestLimits_UnpackedBytes(t *testing.T) {
	t.Parallel()
	f := limited(t, intake.Limits{Bytes: 1 << 20})
	token := f.token(t)
	ctx, leave := context.WithCancel(t.Context())
	first := f.silent(t, ctx, token, 900<<10)
	body := "[" + strings.Repeat(" ", 200<<10) + items("a")[1:]
	var a *answer
	localtest.Eventually(t, "the largest body is taken", func() bool {
		if first.isRefused() { // it came while the other one was there
			first = f.silent(t, ctx, token, 900<<10)
		}
		a = f.do(t, f.create(t, token, strings.NewReader(body)))
		return a.status != http.StatusOK
	})
	a.checkProblem(t, http.StatusTooManyRequests, "more than 1048576 bytes in flight")
	second := f.silent(t, ctx, token, 800<<10)
	<-second.refused // without its end
	if first.isRefused() {
		t.Error("the first one, which was within the limit, is refused")
	}
	leave()
	<-first.refused
}

// One who takes an answer slowly holds what is left to send of it, and no more. The
// connections are pipes: nothing is sent that isn't taken.
func TestServe_SlowReaderHolds(t *testing.T) {
	t.Parallel()
	const large = 8 << 20
	blanks := "[" + strings.Repeat(" ", large) + items("a")[1:]
	data := `[{"partner_client_id":"a","entity_type":"` + strings.Repeat("x", large) + `"}]`
	synctest.Test(t, func(t *testing.T) {
		f := newFront(t, nil)
		listener := newPipeListener()
		f.serve(t, listener, listener.dial)
		token := f.token(t)
		f.queue.logged = func(search queue.Search) ([]queue.StoredChunk, error) {
			if !search.Room(10 * large) {
				return nil, queue.ErrNoRoom
			}
			return []queue.StoredChunk{{Chunk: &intake.Chunk{Len: 1}, Items: [][]byte{[]byte(data[1 : len(data)-1])}}},
				nil
		}
		get := func() *http.Request {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet,
				f.url+"/api/v1/clients/status/"+uuid.NewString(), nil)
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Authorization", "Bearer "+token)
			return request
		}
		const piece = 32 << 10
		for name, c := range map[string]struct {
			request *http.Request
			size    int64 // of the answer
			beside  int64 // may be held beside it
		}{
			"blanks":  {f.create(t, token, strings.NewReader(blanks)), 0, piece},
			"minimal": {f.create(t, token, strings.NewReader(data), "Prefer", "return=minimal"), 0, piece},
			"data":    {f.create(t, token, strings.NewReader(data)), large, piece},
			"lines": {f.create(t, token, strings.NewReader(strings.Repeat(blanks[:1]+blanks[7<<20:]+"\n", 4)),
				"Content-Type", "application/x-ndjson"), 0, 8 * piece},
			"a status check": {get(), large, piece},
		} {
			response, err := f.client.Do(c.request)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if held := f.Inflight() + f.Questions(); held > c.size+c.beside {
				t.Errorf("%s: %d bytes are held of an answer of %d", name, held, c.size)
			}
			if _, err := io.CopyN(io.Discard, response.Body, c.size/2); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			synctest.Wait()
			if held := f.Inflight() + f.Questions(); held > c.size/2+c.beside {
				t.Errorf("%s: %d bytes are held of an answer of %d, half of which is taken", name, held, c.size)
			}
			if _, err := io.Copy(io.Discard, response.Body); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			response.Body.Close()
			synctest.Wait()
			if held := f.Inflight() + f.Questions(); held != 0 {
				t.Errorf("%s: %d bytes are held afterwards", name, held)
			}
		}
	})
}

// Where there is no room to make an answer, it is given all the same.
func TestCreate_NoRoomForAnswer(t *testing.T) {
	t.Parallel()
	f := startFront(t)
	f.queue.submit = func(_ context.Context, batch *intake.Batch) (queue.Ticket, error) {
		return &fakeTicket{wait: func(context.Context) bool {
			f.SetBudget(f.Inflight())
			saveAll(batch)
			return true
		}}, nil
	}
	many := make([]string, 2_000)
	for i := range many {
		many[i] = fmt.Sprint("item-", i)
	}
	b := f.do(t, f.create(t, f.token(t), strings.NewReader(items(many...)))).batch(t)
	if len(b.Result) != len(many) || b.Result[1_999].Status.Code != intake.CodeSaved ||
		!bytes.Contains(b.Result[1_999].Data, []byte(`"item-1999"`)) {
		t.Errorf("answered with %d items", len(b.Result))
	}
	localtest.Eventually(t, "all memory is given back", func() bool { return f.Inflight() == 0 })
}

// However much some partners want, each gets as much as the others, and there is
// always some left for the next one.
func TestBudget_Parts(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	f := newFront(t, func(o *options) { o.MaxInflightBytes = 256 * mib })
	var held [5]int
	for wanting := 1; wanting <= len(held); wanting++ {
		var release []func()
		clear(held[:])
		for refused := 0; refused < wanting; {
			refused = 0
			for partner := range wanting {
				ok, back := f.Take(int32(partner+1), mib)
				if !ok {
					refused++
					continue
				}
				held[partner]++
				release = append(release, back)
			}
		}
		fair := 3 * 256 / (1 + 3*wanting)
		for partner := range wanting {
			if held[partner] < fair-wanting || held[partner] > fair+1 {
				t.Errorf("%d partners want what they can get: one has %d MiB, want %d", wanting, held[partner], fair)
			}
		}
		ok, back := f.Take(99, int64(256/(1+3*wanting)-wanting)*mib)
		if !ok {
			t.Errorf("%d partners have what they could get, and another one gets nothing", wanting)
		}
		for _, back := range append(release, back) {
			back()
		}
	}
	var together sync.WaitGroup
	for partner := range int32(50) {
		together.Go(func() {
			for range 1_000 {
				_, back := f.Take(partner%7, 3*mib)
				back()
			}
		})
	}
	together.Wait()
	if f.Inflight() != 0 {
		t.Errorf("%d bytes are held of what was given back", f.Inflight())
	}
	if ok, _ := f.Take(1, 256*mib); !ok {
		t.Error("a partner's only request gets less than all")
	}
}
