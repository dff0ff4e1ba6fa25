package worker

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	"intake/internal/local/localtest"
	"intake/worker/queue"
)

// Messages that earlier versions have queued, and package queue has recorded, are saved by this one.
func TestWorker_RecordedMessages(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("queue/testdata/recorded/*.msg")
	if err != nil || len(files) < 6 {
		t.Fatalf("%d messages (%v)", len(files), err)
	}
	r := newRig(t)
	r.queue(t, r.nc, queue.Options{}) // makes the stream
	start(t, r.worker(t, Options{}).Run)
	records := 0
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		chunks, _, err := queue.ReadMessage(data)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		subject := queue.SubjectPrefix + queue.WaitingLane + ".acme." + filepath.Base(file) + ".0"
		if _, err := r.js.Publish(t.Context(), subject, data); err != nil {
			t.Fatal(err)
		}
		for _, chunk := range chunks {
			localtest.Eventually(t, file+" is saved", func() bool {
				outcomes, err := r.store.Outcomes(t.Context(), []uuid.UUID{chunk.Batch})
				return err == nil && len(outcomes) == 1 && len(outcomes[0].NotSaved) == len(chunk.Rejected)
			})
			records += len(chunk.Clients)
		}
	}
	var saved int
	err = r.connect(t).QueryRow(t.Context(), "select count(*) from partner_clients").Scan(&saved)
	if err != nil || saved != records {
		t.Errorf("%d records, want %d (%v)", saved, records, err)
	}
}
