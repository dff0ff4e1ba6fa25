package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"golang.org/x/oauth2/clientcredentials"
	"golang.org/x/sync/errgroup"
)

// A lane holds the times of two partners with small batches, one that waits for its answers
// and one that does not, while a third partner sends.
type lane struct {
	Beside string `json:"beside"`
	// Behind is the number of messages queued but not saved, half way through.
	Behind uint64 `json:"messages_behind"`
	// Items a second that the third partner got queued.
	Queued float64 `json:"queued_items_per_second"`
	P50    float64 `json:"waiting_p50_ms"`
	P99    float64 `json:"waiting_p99_ms"`
	Failed int     `json:"waiting_failed"`
	// Time until a batch that nobody waits for is saved.
	LaterP50 float64 `json:"later_p50_ms"`
	LaterMax float64 `json:"later_max_ms"`
}

const lanesDuration = 20 * time.Second

// lanes measures whether one partner's many batches delay the others'.
func (b *bench) lanes(ctx context.Context, r *results) error {
	intake, err := b.startAlone(ctx)
	if err != nil {
		return err
	}
	many, err := b.file(ctx, cell{shape: thousand})
	if err != nil {
		return err
	}
	few, err := b.file(ctx, cell{shape: shape{10, 12, false}})
	if err != nil {
		return err
	}
	waits, later := *intake, *intake
	for name, s := range map[string]*system{"waits": &waits, "later": &later} {
		if s.client, s.secret, err = intake.addPartner(ctx, name); err != nil {
			return err
		}
	}
	time.Sleep(5 * time.Second) // until the front knows them
	const limit = 2_000         // items a second
	for _, beside := range []struct {
		name  string
		limit int // of the third partner
		flags []string
	}{
		{"nothing", 0, nil},
		{"batches that wait, 16 at once", 0, []string{"--fresh-keys", "--concurrency=16"}},
		{"batches that don't wait, 16 at once", 0, []string{"--fresh-keys", "--async", "--concurrency=16"}},
		{"batches at 20 times what is allowed", limit, []string{
			"--fresh-keys", fmt.Sprintf("--rate=%d", 20*limit/thousand.Items), "--concurrency=256",
		}},
	} {
		if err := intake.setLimit(ctx, "bench", beside.limit); err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "beside %s\n", beside.name)
		l := lane{Beside: beside.name}
		var group errgroup.Group
		if beside.flags != nil {
			group.Go(func() error {
				flags := append([]string{"--duration=" + (lanesDuration + 10*time.Second).String()}, beside.flags...)
				got, err := b.replay(ctx, intake, cell{}, many, flags...)
				if err == nil {
					l.Queued = float64(got.Report.Items) / got.Report.Seconds
				}
				return err
			})
			time.Sleep(5 * time.Second) // until there is a lot
		}
		group.Go(func() error {
			got, err := b.replay(ctx, &waits, cell{Concurrency: 256}, few,
				"--rate=20", "--duration="+lanesDuration.String(), "--fresh-keys")
			if err != nil {
				return err
			}
			l.P50, l.P99 = got.Report.Latency.P50, got.Report.Latency.P99
			for status, n := range got.Report.Statuses {
				if status != "200" {
					l.Failed += n
				}
			}
			return nil
		})
		group.Go(func() error {
			took, err := measureLater(ctx, &later)
			if err == nil {
				slices.Sort(took)
				l.LaterP50, l.LaterMax = took[len(took)/2].Seconds()*1e3, took[len(took)-1].Seconds()*1e3
			}
			return err
		})
		time.Sleep(lanesDuration / 2)
		if l.Behind, err = intake.behind(ctx); err != nil {
			return errors.Join(err, group.Wait())
		}
		if err := group.Wait(); err != nil {
			return err
		}
		r.Lanes = append(r.Lanes, l)
		for behind := uint64(1); behind > 0; { // the next one begins with an empty queue
			if behind, err = intake.behind(ctx); err != nil {
				return err
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	return nil
}

// measureLater sends batches that nobody waits for, and returns how long each took
// until it was saved.
func measureLater(ctx context.Context, s *system) (took []time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	credentials := clientcredentials.Config{ClientID: s.client, ClientSecret: s.secret,
		TokenURL: s.url + "/oauth/token"}
	client := credentials.Client(ctx)
	call := func(method, path, body string, answer any) error {
		request, err := http.NewRequestWithContext(ctx, method, s.url+path, strings.NewReader(body))
		if err != nil {
			return err
		}
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set("Prefer", "respond-async, return=minimal")
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode >= 300 {
			return fmt.Errorf("%s %s: %s %s (%w)", method, path, response.Status, bytes.TrimSpace(text), err)
		}
		return json.Unmarshal(text, answer)
	}
	began := time.Now()
	for n := 0; time.Since(began) < lanesDuration; n++ {
		var answer struct {
			URI    string `json:"status_check_uri"`
			Status string `json:"status"`
		}
		sent := time.Now()
		batch := fmt.Sprintf(`[{"partner_client_id":"%d-%d","entity_type":"SoleTrader"}]`, began.UnixNano(), n)
		if err := call(http.MethodPost, "/api/v1/clients", batch, &answer); err != nil {
			return nil, err
		}
		for answer.Status != "Completed" {
			time.Sleep(2 * time.Millisecond)
			if err := call(http.MethodGet, answer.URI, "", &answer); err != nil {
				return nil, err
			}
		}
		took = append(took, time.Since(sent))
		time.Sleep(100 * time.Millisecond)
	}
	return took, nil
}

func (r *results) printLanes(out io.Writer) {
	t := newTable(out, "beside", "queued, items/s", "messages behind",
		"waiting p50 ms", "p99", "failed", "saved later p50 ms", "longest")
	for _, l := range r.Lanes {
		t.AppendRow(table.Row{l.Beside, fmt.Sprintf("%.0f", l.Queued), l.Behind,
			fmt.Sprintf("%.1f", l.P50), fmt.Sprintf("%.1f", l.P99), l.Failed,
			fmt.Sprintf("%.1f", l.LaterP50), fmt.Sprintf("%.1f", l.LaterMax)})
	}
	r.render(t)
}
