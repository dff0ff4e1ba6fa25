# make alone prints the targets.
.DEFAULT_GOAL := help
SHELL := bash

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME ?= 10s
BENCH ?= table
DURATION ?= 5m
SEED ?= 0

.PHONY: help
help: ## print this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

.PHONY: build
build: ## make bin/intake; the first build downloads its modules and takes a few minutes
	@[[ -e bin/intake ]] || echo "building bin/intake with Go: the first build downloads its modules, and takes 2 to 4 minutes and 1 GB of disk on two cores"
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/intake ./cmd/intake

.PHONY: up
up: servers build ## run the whole stack here on private servers, and send it a sample batch; INTAKE_NO_INSTALL=1 installs nothing
	bin/intake up --demo

# What make and the README's commands leave behind.
LEFTOVERS := bin .intake *.ndjson report.html prove.html bench-*.json

.PHONY: clean
clean: ## remove bin, .intake with all data of make up, reports and batch files, and say how large they were
	@if [[ -e .intake/up.env ]] && ! flock -n .intake/lock true 2>/dev/null; then \
		echo "make up is running; stop it first, or remove .intake/up.env if it was killed" >&2; exit 1; fi
	@found=($(wildcard $(LEFTOVERS))); ((!$${#found[@]})) || { du -shc "$${found[@]}"; rm -rf "$${found[@]}"; }

# With -short, localtest skips the tests that start servers. .ci/run doesn't rely on it:
# it runs every test.
.PHONY: check
check: lint unit ## lint, and run the tests that need no servers: under a minute once compiled

.PHONY: unit
unit:
	go test -short -timeout 5m ./...

# The stories of servers that die under load are named TestLong_…; go test ./... runs them
# too. test and test-long together run every test.
LONG := ^TestLong_

.PHONY: test
test: servers browser ## run all tests but the long ones, on private servers of their own
	go test -timeout 15m -skip '$(LONG)' ./...

.PHONY: test-long
test-long: servers ## run the long tests: servers that die, restart and fail over under load
	go test -timeout 15m -run '$(LONG)' ./cmd/intake ./cmd/prove

.PHONY: race
race: servers browser ## run all tests, the long ones too, with the race detector
	go test -race -parallel 4 -timeout 25m ./...

# The race detector takes memory that a test measures, and cannot see into processes.
.PHONY: unraced
unraced: servers ## run the tests that make race leaves out or weakens, without it
	go test -timeout 10m -run '^(TestSlowConnections|TestLong_Run_Cluster)$$' ./cmd/intake ./cmd/prove

.PHONY: clients
clients: servers node ## lint the OpenAPI document, generate clients from it in Go and TypeScript, and try them
	go test -tags clients -timeout 15m -run '^TestClients$$' ./cmd/intake

.PHONY: lint
lint: ## check form, suspicious code, prose and go.mod
	@unformatted=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); [[ -z $$unformatted ]] || { echo "not formatted, run gofmt -w: $$unformatted"; exit 1; }
	go vet ./...
	go vet -tags failpoints,planted,clients ./...
	go run $(STATICCHECK) ./...
	go mod verify
	go mod tidy -diff
	go test -run '^Test(Rooms|Prose|Documents)' .

.PHONY: fuzz
fuzz: ## fuzz every target for FUZZTIME (default 10s) each
	@set -e; for package in $$(go list ./...); do \
		for target in $$(go test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 5x $$package; \
		done; \
	done

.PHONY: bench
bench: servers build ## measure beside a handler that commits each request and one that commits in groups; BENCH=short, disks, growth, soak, lanes or overload for another run than the table; BENCH=compare A=rev B=rev for two revisions of Intake; CELLS=1x12@64,… for other cells
	go run ./cmd/bench -json bench-$(BENCH).json $(if $(CELLS),-cells $(CELLS)) $(BENCH) $(A) $(B)

.PHONY: prove
prove: servers ## kill, stop and cut off every part under load for DURATION (default 5m), and check every answer; SEED=n repeats a run, STANDBY=1 has a standby of Postgres, CLUSTER=1 three of each other server as well
	CGO_ENABLED=0 go build -trimpath -tags failpoints -ldflags "-s -w -X main.version=$(VERSION)" -o bin/intake-failpoints ./cmd/intake
	go run ./cmd/prove --intake bin/intake-failpoints --duration $(DURATION) --seed $(SEED) $(if $(STANDBY),--standby) $(if $(CLUSTER),--cluster)

.PHONY: prove-bugs
prove-bugs: servers ## plant bugs one after the other, and check that prove finds each
	go test -tags planted -timeout 60m -run '^TestPlanted$$' -v ./cmd/prove

.PHONY: compose-test
compose-test: ## bring the docker-compose stack up, send to it, restart each part, count, and take it down
	deploy/compose-test

.PHONY: docs-bundle
docs-bundle: ## fetch the newest program of the reference page through npm, or that of SCALAR=1.2.3
	cmd/intake/internal/reference/scalar/update $(SCALAR)

# Postgres and Redis as programs; NATS is part of the binary.
.PHONY: servers
servers:
	@internal/local/install

# A test opens the reference page.
.PHONY: browser
browser:
	@internal/local/install chromium

# A test generates clients in TypeScript.
.PHONY: node
node:
	@internal/local/install node
