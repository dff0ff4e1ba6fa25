package front_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"intake/cmd/intake/internal/closing"
	"intake/internal/local/localtest"
)

// No request is broken off by a front that stops, though connections are made at
// every moment: they are answered, or nobody listens any more.
func TestServe_StopsWithoutReset(t *testing.T) {
	t.Parallel()
	for range 8 {
		f := newFront(t, func(o *options) { o.DrainDelay = 200 * time.Millisecond })
		listener, err := closing.Listen(t.Context(), "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		dialer := &net.Dialer{Timeout: 500 * time.Millisecond}
		f.serve(t, listener, dialer.DialContext)
		token := f.token(t)
		f.client.Transport.(*http.Transport).DisableKeepAlives = true
		var clients sync.WaitGroup
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		for range 8 {
			clients.Go(func() {
				for ctx.Err() == nil {
					response, err := f.client.Do(f.create(t, token, strings.NewReader(items("a"))).WithContext(ctx))
					if err == nil {
						response.Body.Close()
						continue
					}
					if op := (*net.OpError)(nil); !errors.As(err, &op) || op.Op != "dial" {
						t.Error(err)
					}
					return
				}
			})
		}
		localtest.Eventually(t, "all clients are sending", func() bool { return f.queue.submitted() >= 50 })
		f.stop()
		clients.Wait()
	}
}
