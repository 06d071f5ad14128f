# Scripts that need more than a few lines live in .ci; each runs on its own as well.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZRUNS ?= 10000x

.DEFAULT_GOAL := help
.PHONY: help run build deps test fuzz bench chaos outage mutants lint api ci

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: build ## start a server with a demo workload, in memory; needs nothing but Go
	@bin/millrace serve --demo

build: ## build the static binary bin/millrace
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/millrace ./cmd/millrace

deps: ## install what the tests need and the system lacks: redis-server, a C compiler
	@.ci/deps redis-server cc

# Tests wait more than they compute, hence -parallel. The timeout is per package; the whole takes less than 8 minutes on two cores.
# Watermill's reconnect test races with itself, so it runs once more without the race detector, with a Redis that restarts.
test: deps ## run all tests, with the race detector and in random order
	go test -race -shuffle=on -parallel 8 -timeout 6m ./...
	go test -shuffle=on -timeout 2m -run '^TestSuite(Ordered|Window)$$/^TestReconnect$$' ./internal/watermilltest

fuzz: ## run every fuzz test FUZZRUNS times (10000x)
	@.ci/fuzz '$(FUZZRUNS)'

# BENCH passes flags on: make bench BENCH='--quick'. What is printed can be kept: all else goes to stderr.
bench: deps ## measure against the raw limit and others; AGAINST=REV: against itself
	@go run -C bench . $(if $(AGAINST),--against '$(AGAINST)') $(BENCH)

# What is broken is chosen from a seed that is printed: make chaos SEED=7 DURATION=2m. LOSSES=-chaos.losses destroys groups as well.
chaos: deps ## kill, freeze and restart workers and Redis for DURATION (10m), and account for every event
	go test ./internal/chaos -run '^TestChaos$$' -count=1 -v -timeout 0 -chaos.grace 50ms -chaos.duration $(or $(DURATION),10m) -chaos.seed $(or $(SEED),0) $(LOSSES)

outage: deps ## break Redis for DURATION (2m) under two servers and two workers, and account for every event; FSYNC=everysec: it loses its last writes each time
	go test ./cmd/millrace -run '^TestOutage$(if $(filter everysec,$(FSYNC)),Everysec)$$' -count=1 -v -timeout 0 -outage.duration $(or $(DURATION),2m)

mutants: deps ## take one mechanism away after the other, and see a test fail each time
	@.ci/mutants $(MUTANTS)

lint: ## check the format, vet, run staticcheck
	@.ci/gofmt
	go vet ./...
	go run $(STATICCHECK) ./...
	go vet -C bench ./...
	go run -C bench $(STATICCHECK) ./...

api: ## write docs/api.txt, the exported API, anew
	go test ./internal/arch -run '^TestExportedAPI$$' -count=1 -update

ci: ## run everything that is checked before a merge
	@.ci/run
