package auth_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"intake/cmd/intake/internal/auth"
	"intake/cmd/intake/internal/auth/authtest"
)

// A key that is new gets in at once, and one that is withdrawn is refused within
// a minute, also where its token is known.
func TestKeySet_Rotation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		first, second := authtest.NewKey(t, "1", jwt.SigningMethodES256),
			authtest.NewKey(t, "2", jwt.SigningMethodES256)
		issuer := authtest.NewIssuer(t, "https://issuer.example", first)
		f := withIssuer(t, issuer.URL, issuer, nil)
		old := first.Sign(t, issuer.Claims())
		f.wantPost(t, old, http.StatusOK)
		time.Sleep(10 * time.Second)
		issuer.SetKeys(second, first)
		fresh := second.Sign(t, issuer.Claims())
		var together sync.WaitGroup
		for range 50 {
			together.Go(func() { f.wantPost(t, fresh, http.StatusOK) })
		}
		together.Wait()
		f.wantPost(t, old, http.StatusOK)
		if fetched := len(issuer.Fetches()); fetched != 2 {
			t.Errorf("%d fetches, want 2", fetched)
		}
		issuer.SetKeys(second)
		time.Sleep(time.Minute + time.Second)
		f.wantPost(t, old, http.StatusUnauthorized)
		f.wantPost(t, fresh, http.StatusOK)
		// Another key of the same name is another key.
		issuer.SetKeys(authtest.NewKey(t, "2", jwt.SigningMethodES256))
		time.Sleep(time.Minute + time.Second)
		f.wantPost(t, fresh, http.StatusUnauthorized)
		f.wantPost(t, issuer.Token(t), http.StatusOK)
		issuer.SetKeys()
		time.Sleep(time.Minute + time.Second)
		f.wantPost(t, fresh, http.StatusUnauthorized)
	})
}

// An issuer that is away lets nobody in whose key isn't known, and locks nobody
// out whose key is.
func TestKeySet_Away(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		first := authtest.NewKey(t, "1", jwt.SigningMethodES256)
		issuer := authtest.NewIssuer(t, "https://issuer.example", first)
		issuer.SetAway(http.StatusBadGateway)
		f := withIssuer(t, issuer.URL, issuer, func(o *auth.Options) { o.Registerer = registry })
		logged := func(says string, want int) {
			t.Helper()
			if got := f.logs.FilterMessageSnippet(says).Len(); got != want {
				t.Errorf("logged %d times %q, want %d", got, says, want)
			}
		}
		for range 20 {
			f.post(t, first.Sign(t, issuer.Claims())).checkProblem(t, http.StatusServiceUnavailable,
				"issuer_unavailable: the keys")
			time.Sleep(time.Second)
		}
		f.wantPost(t, f.token(t), http.StatusOK)
		claims := issuer.Claims()
		claims["iss"] = "https://evil.example"
		f.wantPost(t, first.Sign(t, claims), http.StatusUnauthorized)
		logged("cannot read the keys", 1)

		issuer.SetAway(0)
		time.Sleep(6 * time.Second)
		token := first.Sign(t, issuer.Claims())
		f.wantPost(t, token, http.StatusOK)
		logged("can be read again", 1)

		issuer.SetAway(http.StatusInternalServerError)
		time.Sleep(50 * time.Minute)
		f.wantPost(t, token, http.StatusOK)
		f.wantPost(t, first.Sign(t, issuer.Claims()), http.StatusOK)
		f.wantPost(t, authtest.NewKey(t, "2", jwt.SigningMethodES256).Sign(t, issuer.Claims()), http.StatusUnauthorized)
		logged("using those read before", 1)
		if failed := counted(t, registry, "intake_front_issuer_fetches_total", "failed"); failed < 500 {
			t.Errorf("%v failures are counted", failed)
		}

		issuer.SetAway(0)
		time.Sleep(6 * time.Second)
		logged("can be read again", 2)
		if n, err := testutil.GatherAndCount(registry, "intake_front_issuer_keys_read_timestamp_seconds"); n != 1 ||
			err != nil {
			t.Errorf("%d metrics tell when the keys were read: %v", n, err)
		}
	})
}

// counted reads a counter that has one label, or none.
func counted(t testing.TB, registry *prometheus.Registry, name, label string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, metric := range family.Metric {
			if family.GetName() == name && (len(metric.Label) == 0 || metric.Label[0].GetValue() == label) {
				return metric.GetCounter().GetValue()
			}
		}
	}
	t.Fatalf("there is no %s of %s", name, label)
	return 0
}

// Tokens that strangers make up don't make the front hammer the issuer.
func TestKeySet_Storm(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		key, unknown := authtest.NewKey(t, "1", jwt.SigningMethodES256), authtest.NewKey(t, "x", jwt.SigningMethodES256)
		issuer := authtest.NewIssuer(t, "https://issuer.example", key)
		f := withIssuer(t, issuer.URL, issuer, nil)
		token := issuer.Token(t)
		f.wantPost(t, token, http.StatusOK)
		var strangers sync.WaitGroup
		for stranger := range 20 {
			strangers.Go(func() {
				for n := range 300 {
					key := unknown
					key.KID = fmt.Sprint(stranger, ":", n)
					f.wantPost(t, key.Sign(t, issuer.Claims()), http.StatusUnauthorized)
					time.Sleep(100 * time.Millisecond)
				}
			})
		}
		strangers.Wait()
		f.wantPost(t, token, http.StatusOK)
		fetched := issuer.Fetches()
		if len(fetched) < 3 || len(fetched) > 8 { // 30 s
			t.Errorf("%d fetches", len(fetched))
		}
		for i := 1; i < len(fetched); i++ {
			if apart := fetched[i].Sub(fetched[i-1]); apart < 5*time.Second {
				t.Errorf("two fetches were %s apart", apart)
			}
		}
	})
}

// No request waits long for an issuer that doesn't answer, and none at all when
// its key is known.
func TestKeySet_Hangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		key := authtest.NewKey(t, "1", jwt.SigningMethodES256)
		issuer := authtest.NewIssuer(t, "https://issuer.example", key)
		hang := func(r *http.Request) (bool, int) {
			<-r.Context().Done()
			return true, http.StatusOK
		}
		issuer.SetAnswer(hang)
		f := withIssuer(t, issuer.URL, issuer, nil)
		within := func(limit time.Duration, token string, status int) {
			t.Helper()
			began := time.Now()
			f.wantPost(t, token, status)
			if took := time.Since(began); took > limit {
				t.Errorf("took %s", took)
			}
		}
		token := issuer.Token(t)
		for range 30 {
			within(2*time.Second, token, http.StatusServiceUnavailable)
		}
		issuer.SetAway(0)
		time.Sleep(20 * time.Second)
		within(0, token, http.StatusOK)
		issuer.SetAnswer(hang)
		time.Sleep(2 * time.Minute)
		within(0, token, http.StatusOK)
		within(0, issuer.Token(t), http.StatusOK)
		within(2*time.Second, authtest.NewKey(t, "2", jwt.SigningMethodES256).Sign(t, issuer.Claims()),
			http.StatusUnauthorized)

		// Nor does one whose client has gone.
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		began := time.Now()
		request := f.request(t, authtest.NewKey(t, "2", jwt.SigningMethodES256).Sign(t, issuer.Claims()))
		f.ServeHTTP(newAnswer(), request.WithContext(ctx))
		if took := time.Since(began); took != 0 {
			t.Errorf("took %s", took)
		}
	})
}
