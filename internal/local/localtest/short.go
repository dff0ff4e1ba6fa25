package localtest

import "testing"

// skipShort skips a test that needs servers under go test -short, which make check
// uses. Everything that starts a server in this package calls it, by way of [Dir] or
// [Postgres].
func skipShort(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs servers: run it without -short")
	}
}
