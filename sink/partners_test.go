package sink_test

import (
	"crypto/rand"
	"errors"
	"os"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"intake"
	"intake/deploy/local/localtest"
	"intake/sink"
)

func TestStore_Partners(t *testing.T) {
	t.Parallel()
	store, _ := open(t)
	ctx := t.Context()
	partner, err := store.AddPartner(ctx, intake.Partner{Name: "beta", Currency: "EUR", EntityTypes: []string{"A", "B"}}, [32]byte{1})
	if err != nil || partner.ID == 0 {
		t.Fatal(partner, err)
	}
	if _, err := store.AddPartner(ctx, intake.Partner{Name: "beta", Currency: "USD"}, [32]byte{}); !errors.Is(err, sink.ErrPartnerExists) {
		t.Errorf("a second beta: %v", err)
	}
	if err := errors.Join(store.SetSecret(ctx, "beta", [32]byte{2}), store.SetDisabled(ctx, "beta", true)); err != nil {
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

// All fronts get one key, whoever makes it.
func TestStore_SigningKey(t *testing.T) {
	t.Parallel()
	store, _ := open(t)
	keys := make([]string, 8)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			key, err := store.SigningKey(t.Context(), func() ([]byte, error) { return []byte(rand.Text()), nil })
			if err != nil {
				t.Error(err)
			}
			keys[i] = string(key)
		})
	}
	wg.Wait()
	for _, key := range keys {
		if key == "" || key != keys[0] {
			t.Fatalf("keys differ: %q", keys)
		}
	}
}

// Any number of processes may migrate at once; each finds the schema up to date.
func TestMigrate_AtOnce(t *testing.T) {
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
