package main

import (
	"os"
	"strings"

	"intake/internal/local"
)

// checkDeadlocks searches the log of Postgres for deadlocks other than the nemesis's.
// There must be none: all workers save in the order of the keys.
func (s *stack) checkDeadlocks(r *Report) error {
	for _, postgres := range []*local.Postgres{s.postgres, s.standby} {
		if postgres == nil {
			continue
		}
		log, err := os.ReadFile(postgres.LogPath())
		if err != nil {
			return err
		}
		for _, deadlock := range strings.Split(string(log), "deadlock detected")[1:] {
			detail, _, _ := strings.Cut(deadlock, "HINT:")
			if !strings.Contains(detail, "lock table") {
				r.violate("transactions have waited for each other: %.600s", detail)
			}
		}
	}
	return nil
}
