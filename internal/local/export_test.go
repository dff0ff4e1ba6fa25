package local

// CommandLine is for the tests: what a process runs, nothing if it has ended.
var CommandLine = commandLine
