package sink_test

import (
	"errors"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"intake"
	"intake/internal/local/localtest"
	"intake/sink"
)

func TestStore_Partners(t *testing.T) {
	t.Parallel()
	store, _ := open(t)
	ctx := t.Context()
	partner, err := store.AddPartner(ctx, intake.Partner{Name: "beta", Currency: "EUR",
		EntityTypes: []string{"A", "B"}}, [32]byte{1})
	if err != nil || partner.ID == 0 {
		t.Fatal(partner, err)
	}
	if _, err := store.AddPartner(ctx, intake.Partner{Name: "beta", Currency: "USD"}, [32]byte{}); !errors.Is(err,
		sink.ErrPartnerExists) {
		t.Errorf("a second beta: %v", err)
	}
	if _, err := store.RotateSecret(ctx, "beta", [32]byte{2}, 0); err != nil {
		t.Fatal(err)
	}
	if err := store.SetDisabled(ctx, "beta", true); err != nil {
		t.Fatal(err)
	}
	if err := store.SetDisabled(ctx, "nobody", true); !errors.Is(err, sink.ErrNoPartner) {
		t.Errorf("disable nobody: %v", err)
	}
	partners, err := store.Partners(ctx)
	if err != nil || len(partners) != 2 {
		t.Fatal(partners, err)
	}
	partner.Disabled = true
	if diff := cmp.Diff(partner, partners[1].Partner); diff != "" || partners[1].SecretHash != [32]byte{2} {
		t.Errorf("hash %v, %s", partners[1].SecretHash, diff)
	}
}

// An old secret lasts for as long as was said when it was replaced, or a later one
// was, whichever ends first.
func TestStore_RotateSecret(t *testing.T) {
	t.Parallel()
	store, conn := open(t)
	ctx := t.Context()
	if _, err := store.AddPartner(ctx, intake.Partner{Name: "other", Currency: "GBP"}, [32]byte{9}); err != nil {
		t.Fatal(err)
	}
	rotate := func(hash byte, overlap time.Duration) time.Time {
		t.Helper()
		until, err := store.RotateSecret(ctx, "acme", [32]byte{hash}, overlap)
		if err != nil {
			t.Fatal(err)
		}
		return until
	}
	expect := func(current byte, until time.Time, old ...byte) {
		t.Helper()
		partners, err := store.Partners(ctx)
		if err != nil {
			t.Fatal(err)
		}
		acme, other := partners[0], partners[1]
		var got []byte
		for _, hash := range acme.OldSecretHashes {
			got = append(got, hash[0])
		}
		slices.Sort(got)
		if acme.SecretHash != [32]byte{current} || !slices.Equal(got, old) || !acme.OldSecretUntil.Equal(until) {
			t.Errorf("secret %d, old ones %d until %s, want %d, %d until %s", acme.SecretHash[0], got,
				acme.OldSecretUntil, current, old, until)
		}
		if other.SecretHash != [32]byte{9} || other.OldSecretHashes != nil {
			t.Errorf("another's secrets are %+v", other)
		}
	}
	day := rotate(1, 24*time.Hour)
	expect(1, day, 0)
	later := rotate(2, 48*time.Hour)
	expect(2, later, 0, 1)
	if _, err := conn.Exec(ctx,
		"update old_secrets set ends_at = clock_timestamp() - interval '1 s' where secret_hash = $1",
		make([]byte, 32)); err != nil {
		t.Fatal(err)
	}
	expect(2, later, 1)
	hour := rotate(3, time.Hour)
	expect(3, hour, 1, 2)
	rotate(4, 0)
	expect(4, time.Time{})
	if n := count(t, conn, "select count(*) from old_secrets"); n != 0 {
		t.Errorf("%d old secrets are kept that nobody can use", n)
	}
	if _, err := store.RotateSecret(ctx, "nobody", [32]byte{1}, time.Hour); !errors.Is(err, sink.ErrNoPartner) {
		t.Errorf("rotate nobody's secret: %v", err)
	}
}

// Several processes may migrate concurrently; each finds the schema up to date.
func TestMigrate_Concurrently(t *testing.T) {
	t.Parallel()
	url := localtest.Postgres(t)
	files, err := os.ReadDir("migrations")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if version, _, err := sink.Migrate(t.Context(), url); err != nil || version != int64(len(files)) {
				t.Errorf("version %d: %v", version, err)
			}
		})
	}
	wg.Wait()
}

func TestMigrate_NoServer(t *testing.T) {
	t.Parallel()
	if _, _, err := sink.Migrate(t.Context(), "postgres://nobody@127.0.0.1:1/none"); err == nil {
		t.Fatal("no error")
	}
}
