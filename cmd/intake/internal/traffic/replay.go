package traffic

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"

	"intake"
	"intake/internal/client"
)

// ReplayOptions say what is sent, where and how fast. URL, the credentials and
// Batches are required.
type ReplayOptions struct {
	URL                    string // of the front, without a path
	ClientID, ClientSecret string
	TokenURL               string // where tokens are issued; the default is the front's /oauth/token
	Batches                []*Template
	// Rate is how many batches are sent a second, whether or not answers come. 0
	// sends the next batch when one of Concurrency is answered.
	Rate float64
	// Concurrency is the most batches without an answer. The default is 16, or
	// 1,000 at a Rate.
	Concurrency int
	// Duration is how long batches are sent. 0 sends each batch Loop times.
	Duration time.Duration
	// Loop is how many times each batch is sent. The default is 1.
	Loop int
	// FreshKeys makes new keys each time that the batches are sent again, and the
	// first time if Salt is not 0.
	FreshKeys bool
	// Salt is the number of the first round.
	Salt int
	// Async does not wait until batches are saved.
	Async bool
	// Echo lets answers have the items' data.
	Echo bool
	// Keep keeps what [Verify] needs.
	Keep bool
}

// Replay sends batches until all are sent, the duration is over or ctx ends, and
// reports their states. progress, if not nil, is called with the growing
// report about twice a second.
func Replay(ctx context.Context, opts ReplayOptions, progress func(*Report)) (*Report, error) {
	if len(opts.Batches) == 0 {
		return nil, errors.New("there are no batches to send")
	}
	workers := opts.Concurrency
	switch {
	case workers <= 0 && opts.Rate > 0:
		workers = 1_000
	case workers <= 0:
		workers = 16
	}
	target, err := newTarget(ctx, opts)
	if err != nil {
		return nil, err
	}
	defer target.client.Close()
	attacker := vegeta.NewAttacker(vegeta.Workers(uint64(min(workers, 16))), vegeta.MaxWorkers(uint64(workers)),
		vegeta.Client(newClient(opts, workers)))
	pacer := vegeta.Pacer(vegeta.Rate{Freq: 0, Per: time.Second}) // as fast as it goes
	if opts.Rate > 0 {
		pacer = vegeta.Rate{Freq: int(opts.Rate * 1_000), Per: 1_000 * time.Second}
	}
	report := newReport(opts.Rate, opts.Keep)
	stop := context.AfterFunc(ctx, func() { attacker.Stop() })
	defer stop()
	shown := time.Now()
	for result := range attacker.Attack(target.next, pacer, opts.Duration, "") {
		if result.URL == "" {
			continue // there was nothing left to send
		}
		report.add(result, target.sent(result.URL))
		if progress != nil && time.Since(shown) > 500*time.Millisecond {
			shown = time.Now()
			report.refresh()
			progress(report)
		}
	}
	report.refresh()
	if report.Requests == 0 && ctx.Err() == nil {
		return nil, errors.New("nothing was sent")
	}
	return report, nil
}

// A target makes the requests, each once.
type target struct {
	opts   ReplayOptions
	url    string
	client *client.Client // gets the tokens
	prefer string
	count  atomic.Int64
}

func newTarget(ctx context.Context, opts ReplayOptions) (*target, error) {
	c, err := client.New(client.Options{
		URL: opts.URL, ClientID: opts.ClientID, ClientSecret: opts.ClientSecret, TokenURL: opts.TokenURL,
	})
	if err != nil {
		return nil, err
	}
	if _, err := c.Token(ctx); err != nil {
		c.Close()
		return nil, err
	}
	prefer := "wait=30"
	if opts.Async {
		prefer = "respond-async"
	}
	if !opts.Echo {
		prefer = "return=minimal, " + prefer
	}
	return &target{opts: opts, url: c.URL() + "/api/v1/clients", client: c, prefer: prefer}, nil
}

// A sending is one batch as it was sent in one round.
type sending struct {
	template *Template
	round    int
}

func (t *target) sending(n int64) sending {
	batches := int64(len(t.opts.Batches))
	s := sending{template: t.opts.Batches[n%batches], round: t.opts.Salt}
	if t.opts.FreshKeys {
		s.round += int(n / batches)
	}
	return s
}

func (t *target) next(request *vegeta.Target) error {
	n := t.count.Add(1) - 1
	if t.opts.Duration == 0 && n >= int64(len(t.opts.Batches)*max(t.opts.Loop, 1)) {
		return vegeta.ErrNoTargets
	}
	// The library passes no context. The client bounds the request by itself.
	token, err := t.client.Token(context.Background())
	if err != nil {
		return err
	}
	s := t.sending(n)
	request.Method = http.MethodPost
	request.Header = http.Header{
		"Authorization": {token.Type() + " " + token.AccessToken},
		"Content-Type":  {"application/json"},
		"Prefer":        {t.prefer},
	}
	// The part after the # is not sent: it identifies the batch in the result.
	request.URL = t.url + "#" + strconv.FormatInt(n, 10)
	if request.Body = s.template.body; s.round != 0 {
		request.Body = s.template.Append(make([]byte, 0, len(s.template.body)+16*len(s.template.keys)), s.round)
	}
	return nil
}

func (t *target) sent(url string) sending {
	_, number, _ := strings.Cut(url, "#")
	n, _ := strconv.ParseInt(number, 10, 64)
	return t.sending(n)
}

// codesOf returns the codes of an answer in the order of its items. It searches for them,
// as parsing the JSON would cost more than sending the batch: data must not have any.
func codesOf(body []byte) (codes []intake.Code) {
	mark := []byte(`"code":"`)
	for {
		at := bytes.Index(body, mark)
		if at < 0 {
			return codes
		}
		body = body[at+len(mark):]
		var code intake.Code
		if end := bytes.IndexByte(body, '"'); end < 0 || code.UnmarshalText(body[:end]) != nil {
			return codes
		}
		codes = append(codes, code)
	}
}

// idOf returns the status_check_id of an answer, empty if it has none.
func idOf(body []byte) string {
	const mark = `{"status_check_id":"`
	if !bytes.HasPrefix(body, []byte(mark)) || len(body) < len(mark)+36 {
		return ""
	}
	return string(body[len(mark) : len(mark)+36])
}
