package main

import (
	"context"
	"fmt"
	"intake/internal/sleep"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// admissionBound is how soon after a fault every kind of client must be served again. It
// is long enough for a loaded machine.
const admissionBound = 30 * time.Second

// A kind is a way to send a batch.
type kind struct {
	name   string
	prefer string
	stream bool
	keyed  bool
}

// kinds begin with respond-async: a front that refuses these may take the others, and
// taking them could let it notice that it can take these, too.
var kinds = []kind{
	{name: "respond-async", prefer: "respond-async"},
	{name: "respond-async with an Idempotency-Key", prefer: "respond-async", keyed: true},
	{name: "a respond-async stream", prefer: "respond-async", stream: true},
	{name: "waiting", prefer: "wait=5"},
	{name: "waiting with an Idempotency-Key", prefer: "wait=5", keyed: true},
	{name: "a waiting stream", prefer: "wait=5", stream: true},
}

// checkAdmission checks that each front takes batches of each kind soon after a fault.
func (l *load) checkAdmission(ctx context.Context, r *Report, fault string) error {
	began := time.Now()
	asking, cancel := context.WithTimeout(ctx, admissionBound)
	defer cancel()
	var fronts errgroup.Group
	for n, front := range l.stack.direct {
		fronts.Go(func() error {
			for _, k := range kinds {
				for try := 0; !l.knock(asking, front, k, fmt.Sprintf("%s-%d-%d", fault, n, try)); try++ {
					if !sleep.For(asking, 100*time.Millisecond) && ctx.Err() == nil {
						l.complain("%v after %s, front-%d still refuses batches sent as %s", admissionBound, fault, n+1,
							k.name)
						return nil
					}
				}
			}
			return nil
		})
	}
	err := fronts.Wait()
	r.ShutOut = max(r.ShutOut, time.Since(began).Seconds())
	return err
}

// knock sends a batch, and reports whether it was taken.
func (l *load) knock(ctx context.Context, front string, k kind, name string) bool {
	b := l.newBatch([]item{{key: strings.ReplaceAll(name+" "+k.name, " ", "-"), variant: 1}})
	defer l.keep(b)
	if k.stream {
		if l.exchangeStream(ctx, front, []*batch{b}, k.prefer, 0) == 0 {
			l.refuse(b)
		}
		return b.answered
	}
	if k.keyed {
		b.key = b.items[0].key
	}
	return l.sendOnce(ctx, front, b, k.prefer)
}

// sendOnce sends a batch to a front, and reports whether it was taken.
func (l *load) sendOnce(ctx context.Context, front string, b *batch, prefer string) bool {
	status, text, err := l.post(ctx, front, b, prefer)
	b.told = time.Since(l.began)
	switch {
	case err != nil: // it may be saved or not
	case status == http.StatusOK || status == http.StatusAccepted:
		l.read(b, text)
	case status == http.StatusServiceUnavailable:
		l.refuse(b)
	default:
		l.complain("answered %d %s", status, text)
	}
	return b.answered
}
