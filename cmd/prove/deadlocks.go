package main

import (
	"os"
	"strings"

	"intake/internal/local"
)

// checkDeadlocks looks into the log of Postgres for transactions that waited for
// each other, other than the nemesis's: all save in the order of the keys.
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
