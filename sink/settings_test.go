package sink

import (
	"strings"
	"testing"

	"intake/internal/safety"
)

// Each setting by which Postgres may lose what it has committed is named, and all
// of them at once.
func TestSettings_Check(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*settings)
		want   []string
	}{
		"as it should be":   {func(*settings) {}, nil},
		"a standby's flush": {func(s *settings) { s.synchronousCommit = "remote_apply" }, nil},
		"version": {func(s *settings) { s.version, s.versionName = 14_11_00, "14.11" },
			[]string{"the version of Postgres is 14.11"}},
		"the oldest version": {func(s *settings) { s.version = minVersion }, nil},
		"fsync":              {func(s *settings) { s.fsync = "off" }, []string{"fsync in Postgres is off"}},
		"full_page_writes": {func(s *settings) { s.fullPageWrites = "off" },
			[]string{"full_page_writes in Postgres is off"}},
		"synchronous_commit": {func(s *settings) { s.synchronousCommit = "off" },
			[]string{"synchronous_commit in Postgres (for this user and database) is off"}},
		"no standby needed": {func(s *settings) { s.synchronousCommit = "local" }, nil},
		"a standby not asked": {func(s *settings) { s.synchronousCommit, s.standbys = "local", "standby" },
			[]string{"synchronous_commit in Postgres (for this user and database) is local"}},
		"a pooler": {func(s *settings) { s.pooled = true },
			[]string{"the connection to Postgres is one through a pooler"}},
		"several, and oldish": {func(s *settings) { s.fsync, s.version, s.versionName = "off", 9_06_24, "9.6.24" },
			[]string{"the version of Postgres is 9.6.24", "fsync in Postgres is off"}},
	} {
		set := settings{fsync: "on", fullPageWrites: "on", synchronousCommit: "on", version: 17_00_02,
			versionName: "17.2"}
		test.change(&set)
		breaches, others := safety.Find(set.check())
		if len(breaches) != len(test.want) || others != nil {
			t.Errorf("%s: %v (%v)", name, breaches, others)
			continue
		}
		for i, want := range test.want {
			if !strings.Contains(breaches[i].Error(), want) {
				t.Errorf("%s: %q lacks %q", name, breaches[i], want)
			}
		}
	}
}
