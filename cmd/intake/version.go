package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is set by the linker; see the Makefile.
var version = ""

type versionCommand struct{}

func (versionCommand) Run(out output) error {
	_, err := fmt.Fprintln(out, versionText())
	return err
}

// versionText returns the version, and what the program was built with and for.
func versionText() string {
	v := version
	if v == "" {
		v = "unknown"
		if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
			v = info.Main.Version
		}
	}
	return fmt.Sprintf("intake %s %s %s/%s", v, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
