package dedupe_test

import (
	"testing"

	"github.com/redis/go-redis/v9/logging"

	"intake/internal/local/localtest"
)

func TestMain(m *testing.M) {
	// What it says of connections that fail is what half of the tests are for.
	logging.Disable()
	localtest.Main(m)
}
