package main

import (
	"os"
	"testing"
)

// TestMain runs the NATS of a run that a test makes: this program, as another process.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "nats" {
		os.Exit(run())
	}
	os.Exit(m.Run())
}
