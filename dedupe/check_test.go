package dedupe_test

import (
	"strings"
	"testing"

	"intake/dedupe"
	"intake/internal/local/localtest"
)

func TestCheckServers(t *testing.T) {
	t.Parallel()
	client := newClient(t, localtest.Redis(t))
	for _, test := range []struct{ maxmemory, policy, want string }{
		{"100mb", "allkeys-lru", ""},
		{"0", "allkeys-lru", "maxmemory in Redis is 0"},
		{"100mb", "noeviction", "maxmemory-policy in Redis is noeviction"},
		{"100mb", "volatile-ttl", "maxmemory-policy in Redis is volatile-ttl"},
	} {
		for name, value := range map[string]string{"maxmemory": test.maxmemory, "maxmemory-policy": test.policy} {
			if err := client.ConfigSet(t.Context(), name, value).Err(); err != nil {
				t.Fatal(err)
			}
		}
		warnings, err := dedupe.CheckServers(t.Context(), client)
		if got := strings.Join(warnings, "\n"); err != nil || got == "" != (test.want == "") ||
			!strings.Contains(got, test.want) {
			t.Errorf("maxmemory %s, %s: %q (%v), want %q", test.maxmemory, test.policy, got, err, test.want)
		}
	}
}

// A Redis that is too old is warned of, once for a whole cluster.
func TestCheckVersion(t *testing.T) {
	t.Parallel()
	for version, old := range map[string]bool{"5.0.14": true, "6.2.14": true, "7.0.0": false, "7.0.15": false,
		"7.4.1": false, "8.0.0": false, "": false} {
		warning := dedupe.CheckVersion(version)
		if (warning != "") != old || old && !strings.Contains(warning, "the version of Redis is "+version) {
			t.Errorf("version %q: %q", version, warning)
		}
	}
}
