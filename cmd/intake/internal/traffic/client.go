package traffic

import (
	"net/http"
	"strconv"
	"time"
)

// newClient returns an HTTP client with as many connections as there are workers.
func newClient(opts ReplayOptions, workers int) *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = nil
	transport.MaxIdleConns, transport.MaxIdleConnsPerHost = workers, workers
	transport.DisableCompression = true
	client := &http.Client{
		Timeout: time.Minute, Transport: transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	if opts.Rate == 0 {
		client.Transport = patient{transport}
	}
	return client
}

// patient delays the answer to a refused request by its Retry-After, so that the
// worker sends the next batch only then. It is not used at a rate, where batches are
// sent when they are due.
type patient struct{ http.RoundTripper }

// pausedHeader is added to an answer after which there was a pause.
const pausedHeader = "X-Replay-Paused"

// maxPause bounds a pause, which counts toward the request's timeout.
const maxPause = 5 * time.Second

func (p patient) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := p.RoundTripper.RoundTrip(request)
	if err != nil || response.StatusCode != http.StatusServiceUnavailable &&
		response.StatusCode != http.StatusTooManyRequests {
		return response, err
	}
	seconds, err := strconv.Atoi(response.Header.Get("Retry-After"))
	if err != nil {
		return response, nil
	}
	pause := min(time.Duration(seconds)*time.Second, maxPause)
	select {
	case <-time.After(pause):
	case <-request.Context().Done():
	}
	response.Header.Set(pausedHeader, pause.String())
	return response, nil
}

// pauseOf returns how much of a request's time was a pause.
func pauseOf(header http.Header) time.Duration {
	pause, _ := time.ParseDuration(header.Get(pausedHeader))
	return pause
}
