package front_test

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

	"intake/cmd/intake/internal/front"
)

// A key that is new gets in at once, and one that is withdrawn is refused within
// a minute, also where its token is known.
func TestKeySet_Rotation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		first, second := newKey(t, "1", jwt.SigningMethodES256), newKey(t, "2", jwt.SigningMethodES256)
		issuer := newIssuer(t, "https://issuer.example", first)
		f := withIssuer(t, issuer.url, issuer, nil)
		old := first.sign(t, issuer.claims())
		f.wantPost(t, old, http.StatusOK)
		time.Sleep(10 * time.Second)
		issuer.setKeys(second, first)
		fresh := second.sign(t, issuer.claims())
		var together sync.WaitGroup
		for range 50 {
			together.Go(func() { f.wantPost(t, fresh, http.StatusOK) })
		}
		together.Wait()
		f.wantPost(t, old, http.StatusOK)
		if fetched := len(issuer.fetched()); fetched != 2 {
			t.Errorf("%d fetches, want 2", fetched)
		}
		issuer.setKeys(second)
		time.Sleep(time.Minute + time.Second)
		f.wantPost(t, old, http.StatusUnauthorized)
		f.wantPost(t, fresh, http.StatusOK)
		// Another key of the same name is another key.
		issuer.setKeys(newKey(t, "2", jwt.SigningMethodES256))
		time.Sleep(time.Minute + time.Second)
		f.wantPost(t, fresh, http.StatusUnauthorized)
		f.wantPost(t, issuer.token(t), http.StatusOK)
		issuer.setKeys()
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
		first := newKey(t, "1", jwt.SigningMethodES256)
		issuer := newIssuer(t, "https://issuer.example", first)
		issuer.setAway(http.StatusBadGateway)
		f := withIssuer(t, issuer.url, issuer, func(o *front.Options) { o.Registerer = registry })
		logged := func(says string, want int) {
			t.Helper()
			if got := f.logs.FilterMessageSnippet(says).Len(); got != want {
				t.Errorf("logged %d times %q, want %d", got, says, want)
			}
		}
		for range 20 {
			f.post(t, first.sign(t, issuer.claims())).checkProblem(t, http.StatusServiceUnavailable, "issuer_unavailable: the keys")
			time.Sleep(time.Second)
		}
		f.wantPost(t, f.token(t), http.StatusOK)
		claims := issuer.claims()
		claims["iss"] = "https://evil.example"
		f.wantPost(t, first.sign(t, claims), http.StatusUnauthorized)
		logged("cannot read the keys", 1)

		issuer.setAway(0)
		time.Sleep(6 * time.Second)
		token := first.sign(t, issuer.claims())
		f.wantPost(t, token, http.StatusOK)
		logged("can be read again", 1)

		issuer.setAway(http.StatusInternalServerError)
		time.Sleep(50 * time.Minute)
		f.wantPost(t, token, http.StatusOK)
		f.wantPost(t, first.sign(t, issuer.claims()), http.StatusOK)
		f.wantPost(t, newKey(t, "2", jwt.SigningMethodES256).sign(t, issuer.claims()), http.StatusUnauthorized)
		logged("going on with those known", 1)
		if failed := counted(t, registry, "intake_front_issuer_fetches_total", "failed"); failed < 500 {
			t.Errorf("%v failures are counted", failed)
		}

		issuer.setAway(0)
		time.Sleep(6 * time.Second)
		logged("can be read again", 2)
		if n, err := testutil.GatherAndCount(registry, "intake_front_issuer_keys_read_timestamp_seconds"); n != 1 || err != nil {
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
		key, unknown := newKey(t, "1", jwt.SigningMethodES256), newKey(t, "x", jwt.SigningMethodES256)
		issuer := newIssuer(t, "https://issuer.example", key)
		f := withIssuer(t, issuer.url, issuer, nil)
		token := issuer.token(t)
		f.wantPost(t, token, http.StatusOK)
		var strangers sync.WaitGroup
		for stranger := range 20 {
			strangers.Go(func() {
				for n := range 300 {
					key := unknown
					key.id = fmt.Sprint(stranger, ":", n)
					f.wantPost(t, key.sign(t, issuer.claims()), http.StatusUnauthorized)
					time.Sleep(100 * time.Millisecond)
				}
			})
		}
		strangers.Wait()
		f.wantPost(t, token, http.StatusOK)
		fetched := issuer.fetched()
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
		key := newKey(t, "1", jwt.SigningMethodES256)
		issuer := newIssuer(t, "https://issuer.example", key)
		hang := func(r *http.Request) (bool, int) {
			<-r.Context().Done()
			return true, http.StatusOK
		}
		issuer.setAnswer(hang)
		f := withIssuer(t, issuer.url, issuer, nil)
		within := func(limit time.Duration, token string, status int) {
			t.Helper()
			began := time.Now()
			f.wantPost(t, token, status)
			if took := time.Since(began); took > limit {
				t.Errorf("took %s", took)
			}
		}
		token := issuer.token(t)
		for range 30 {
			within(2*time.Second, token, http.StatusServiceUnavailable)
		}
		issuer.setAway(0)
		time.Sleep(20 * time.Second)
		within(0, token, http.StatusOK)
		issuer.setAnswer(hang)
		time.Sleep(2 * time.Minute)
		within(0, token, http.StatusOK)
		within(0, issuer.token(t), http.StatusOK)
		within(2*time.Second, newKey(t, "2", jwt.SigningMethodES256).sign(t, issuer.claims()), http.StatusUnauthorized)

		// Nor does one whose client has gone.
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		began := time.Now()
		request := f.create(t, newKey(t, "2", jwt.SigningMethodES256).sign(t, issuer.claims()), http.NoBody)
		f.ServeHTTP(newAnswer(), request.WithContext(ctx))
		if took := time.Since(began); took != 0 {
			t.Errorf("took %s", took)
		}
	})
}
