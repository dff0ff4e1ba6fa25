package worker

import (
	"context"
	"errors"
	"testing"

	"intake"
)

// At shutdown an unavailable seen set costs one wait, not one for each gathering
// that is still to be marked.
func TestWorker_SeenSetAwayAtShutdown(t *testing.T) {
	t.Parallel()
	marker := new(awayMarker)
	w := newRig(t).worker(t, Options{Marker: marker})
	for range cap(w.marks) {
		w.marks <- intake.Saved{Keys: []intake.SavedKey{{ID: "a"}}}
	}
	close(w.marks)
	w.backlog.close()
	w.mark(t.Context())
	if marker.asked != 1 {
		t.Errorf("it was asked %d times", marker.asked)
	}
}

type awayMarker struct{ asked int }

func (m *awayMarker) Mark(context.Context, string, []intake.SavedKey) error {
	m.asked++
	return errors.New("the seen set is unavailable")
}
