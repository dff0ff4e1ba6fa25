package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"intake/internal/sleep"
)

// NATS keeps a stream's first write error until it is restarted, or turns JetStream off. It goes on
// answering questions but no longer confirms what is published, so a front notices by the batches that
// it has to give up.
const diskAdvice = "if the disk of NATS is or was full, free room on it and restart nats-server: " +
	"without the restart it stores nothing"

// storing is what a Queue knows of whether NATS stores what is published.
type storing struct {
	doubt  atomic.Pointer[doubt] // nil once something was stored
	broken atomic.Pointer[error]
}

// A doubt is a batch that NATS has not stored.
type doubt struct {
	at          time.Time
	connection  uint64
	unconfirmed bool // NATS neither confirmed nor refused it in time
}

func (q *Queue) doubtStoring(cause error) {
	q.storing.doubt.Store(&doubt{time.Now(), connectionOf(q.nc), !refused(cause)})
}

func (s *storing) stored() {
	if s.doubt.Load() != nil {
		s.doubt.Store(nil)
	}
}

// why returns why NATS stores nothing, or nil if it does as far as is known.
func (s *storing) why() error {
	if broken := s.broken.Load(); broken != nil {
		return *broken
	}
	return nil
}

// watchStoring finds out, once a second until ctx ends, why batches are not stored, and logs each change.
func (q *Queue) watchStoring(ctx context.Context) {
	said := false
	for sleep.For(ctx, time.Second) {
		why := q.whyNotStored(ctx)
		if why == nil {
			q.storing.broken.Store(nil)
		} else {
			q.storing.broken.Store(&why)
		}
		switch {
		case why != nil && !said:
			said = true
			q.opts.Logger.Error("batches are refused", zap.Error(why))
		case why == nil && said && q.checkedConnection() != 0 && q.storing.doubt.Load() == nil:
			said = false
			q.opts.Logger.Info("NATS stores batches again")
		}
	}
}

func (q *Queue) whyNotStored(ctx context.Context) error {
	// A front that is not ready gets no batches, and so would never notice that NATS stores again. After
	// this time a doubt no longer counts, unless all servers complain.
	const believed = 10 * time.Second
	connection, last := connectionOf(q.nc), q.storing.doubt.Load()
	if last != nil && last.connection != connection {
		q.storing.doubt.CompareAndSwap(last, nil) // the server may be a restarted one
		last = nil
	}
	if connection == 0 || last == nil && q.checkedConnection() != 0 {
		return nil
	}
	recently := last != nil && time.Since(last.at) < believed
	complaints := q.opts.Check.askHealth(ctx)
	switch servers := len(q.opts.Check.MonitorURLs); {
	case len(complaints) > 0 && (recently || len(complaints) == servers):
		return fmt.Errorf("NATS stores nothing (%s); %s", strings.Join(complaints, ", "), diskAdvice)
	case servers == 0 && recently && last.unconfirmed:
		return errors.New("NATS is connected, but does not confirm that it has stored a batch; " + diskAdvice)
	}
	return nil
}

// askHealth asks all servers whether they can store, and returns what they complain of.
func (c Check) askHealth(ctx context.Context) (complaints []string) {
	for _, monitor := range c.MonitorURLs {
		health, err := readHealth(ctx, monitor, "details=true")
		if err != nil {
			continue // unknown
		}
		for _, e := range health.Errors {
			switch {
			case e.Type == "STREAM" && e.Stream == StreamName:
			case e.Type == "JETSTREAM" && isJetStreamOff(ctx, monitor):
			default:
				continue
			}
			complaints = append(complaints, monitor+" says: "+e.Error)
			break
		}
	}
	return complaints
}

// isJetStreamOff reports whether a server that should have JetStream has turned it off.
func isJetStreamOff(ctx context.Context, monitor string) bool {
	health, err := readHealth(ctx, monitor, "js-enabled-only=true")
	return err == nil && health.status == http.StatusServiceUnavailable
}

// health is what a server answers at /healthz.
type health struct {
	status int
	Errors []struct {
		Type   string `json:"type"`
		Stream string `json:"stream"`
		Error  string `json:"error"`
	} `json:"errors"`
}

func readHealth(ctx context.Context, monitor, query string) (h health, err error) {
	address, err := url.JoinPath(monitor, "healthz")
	if err != nil {
		return h, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"?"+query, nil)
	if err != nil {
		return h, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return h, err
	}
	defer response.Body.Close()
	h.status = response.StatusCode
	return h, json.NewDecoder(http.MaxBytesReader(nil, response.Body, 1<<20)).Decode(&h)
}
