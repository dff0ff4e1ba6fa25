package sink_test

import (
	"testing"

	"intake/deploy/local/localtest"
	"intake/sink"
)

// The timeline is the same for all who ask, and another one after a restart,
// behind which there may have been a restore.
func TestStore_Timeline(t *testing.T) {
	t.Parallel()
	ctx, postgres := t.Context(), localtest.OwnPostgres(t)
	timeline := func() string {
		t.Helper()
		store, err := sink.Open(ctx, sink.Options{URL: postgres.URL()})
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		name, err := store.Timeline(ctx)
		if err != nil || name == "" {
			t.Fatal(name, err)
		}
		return name
	}
	before := timeline()
	if again := timeline(); again != before {
		t.Errorf("%s and %s for the same server", before, again)
	}
	if err := postgres.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if err := postgres.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if after := timeline(); after == before {
		t.Errorf("%s before and after a restart", before)
	}
}
