# make run    builds and starts a server
# make test   installs what the tests need and runs them all
# make help   lists the rest

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

# No build reaches for another Go than the one that is here.
export GOTOOLCHAIN := local

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
COMMIT  := $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

# The clients of the scenes. The oldest that builds, one between and the newest are enough for every day.
CLIENTS     := v1.62.1 v1.86.5 v1.102.5
ALL_CLIENTS := v1.62.1 v1.64.2 v1.70.0 v1.76.6 v1.80.3 v1.86.5 v1.90.9 v1.96.5 v1.102.5

# All but the scenes, which need root and time of their own, and but the tests of whole servers under load, some of which
# hold them to a number of seconds: they have the machine to themselves.
UNIT  = $(shell go list ./... | grep -v -e '/integration' -e '/hstest')
WHOLE = ./hscontrol/hstest/...

.PHONY: help
help: ## lists what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

.PHONY: build
build: ## builds bin/headscale and bin/derper, static
	@mkdir -p bin
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/headscale ./cmd/derper

.PHONY: run
run: build ## builds and starts a server that needs no configuration file
	@exec bin/headscale serve

.PHONY: test
test: packages check clients unit scenes ## installs what the tests need and runs them all

.PHONY: packages
packages: ## installs the Debian packages that the tests use
	@.ci/packages

.PHONY: clients
clients: ## builds the real clients of the scenes, once
	@integration/clients.sh $(CLIENTS)

.PHONY: check
check: ## gofmt, vet and staticcheck
	@echo "check: gofmt"
	@unformatted=$$(gofmt -l $$(git ls-files --cached --others --exclude-standard '*.go')); \
	if [ -n "$$unformatted" ]; then echo "not formatted, run gofmt -w on:"; echo "$$unformatted"; exit 1; fi
	@echo "check: go vet"
	@go vet ./...
	@echo "check: staticcheck"
	@go run $(STATICCHECK) ./...

.PHONY: unit
unit: ## the tests that need no network of their own, with the race detector
	@echo "unit: go test -race"
	@race=-race; command -v gcc >/dev/null || { race=; echo "unit: no C compiler here, so without the race detector"; }; \
	.ci/gotest $$race -timeout 20m $(UNIT); \
	.ci/gotest $$race -timeout 20m $(WHOLE)

.PHONY: scenes
scenes: ## the scenes with real clients (root and TUN), clients built before
	@echo "scenes: go test ./integration/..."
	@.ci/gotest ./integration/... -p 1 -timeout 40m

.PHONY: test-clients
test-clients: packages ## nine versions of the client in one tailnet
	@integration/clients.sh $(ALL_CLIENTS)
	KEELSCALE_CLIENTS='$(ALL_CLIENTS)' go test ./integration -run '^TestClients$$' -count=1 -timeout 60m -v

# The numbers that a user feels, each with how often it is taken; what is wanted stands in the same line.
NUMBERS := Join:200x Herd:5x Change:50x Restart:5x

.PHONY: bench
bench: ## prints the numbers, then those of the hot paths
	@echo "bench: wanted are join-p50 and visible-p50 <= 50 ms, all-know-all <= 1500 ms, change-p99 <= 100 ms,"
	@echo "bench: all-served-max <= 5000 ms, and none lost over 50 kills"
	@for number in $(NUMBERS); do \
		go test ./hscontrol/hstest -run '^$$' -bench "^Benchmark$${number%:*}$$" -benchtime "$${number#*:}" -timeout 20m; \
	done
	@KILLS=50 go test ./hscontrol/hstest -run '^TestKilledServerKeepsRegistrations$$' -count=1 -timeout 20m -v
	@echo "bench: hot paths"
	@go test -run '^$$' -bench . -benchmem -timeout 40m $$(go list ./hscontrol/... ./derp/... | grep -v /hstest)

.PHONY: soak-derp
soak-derp: ## ten minutes of all that the Internet has for a relay (SOAK=10m)
	SOAK=$${SOAK:-10m} go test ./hscontrol/hstest -run '^TestSoakDERP$$' -count=1 -timeout 60m -v

.PHONY: bench-derp
bench-derp: ## our relay against cmd/derper, side by side (BENCH_DERP='-rounds 5 -only REGEXP'); fails on a missed ratio
	@go run ./derp/bench $(if $(findstring ',$(BENCH_DERP)),$(BENCH_DERP),$(subst |,\|,$(BENCH_DERP)))

# The simulator is not part of this project; it lies beside it.
MESHLOAD ?= ../shared/tools/meshload
# What is measured: all, short (under three minutes), or some of 200 500 1000 2000 5000 policy tailnets beside.
SIZES ?= all
# Another server's program to run beside ours.
AGAINST ?=

.PHONY: bench-mesh
bench-mesh: build ## our server under simulated nodes, beside what is wanted (SIZES=short AGAINST=...); fails on a missed number
	@if ! [ -d "$(MESHLOAD)" ]; then echo "bench-mesh: the simulator is not in $(MESHLOAD); set MESHLOAD to where it is"; exit 1; fi
	@cd "$(MESHLOAD)" && go build -o '$(CURDIR)/bin/meshload' .
	@go run ./integration/meshbench -server bin/headscale -meshload bin/meshload -policy '$(MESHLOAD)/policy.json' -only '$(SIZES)' -against '$(AGAINST)'

.PHONY: bench-api
bench-api: ## 500 API calls a second while 1,000 nodes are connected and 20 changes a second go out (API_NODES=... API_CALLS=...); fails over 50 ms
	@echo "bench-api: wanted are p99 <= 50 ms, and for a list of 5,000 nodes <= 60 ms and 10 MB"
	@API_NODES=$${API_NODES:-1000} API_CALLS=$${API_CALLS:-500} API_CHANGES=$${API_CHANGES:-20} API_SECONDS=$${API_SECONDS:-30} API_P99_MS=$${API_P99_MS:-50} \
		go test ./hscontrol/hstest -run '^TestAPIUnderLoad$$' -count=1 -timeout 10m -v
	@go test ./hscontrol -run '^$$' -bench '^BenchmarkRESTListNodes$$' -benchtime 50x -benchmem -timeout 10m

.PHONY: soak-mesh
soak-mesh: ## ten minutes of all that clients do to a server (SOAK=10m)
	SOAK=$${SOAK:-10m} go test ./hscontrol/hstest -run '^TestSoakMesh$$' -count=1 -timeout 60m -v

.PHONY: docs
docs: ## writes the CLI reference anew
	go generate ./cmd/headscale/...

.PHONY: image
image: ## builds the container images with buildah or docker (IMAGE_FLAGS=...)
	@if command -v buildah >/dev/null; then build="buildah build"; \
	elif command -v docker >/dev/null; then build="docker build"; \
	else echo "neither buildah nor docker is here: apt-get install buildah"; exit 1; fi; \
	for target in headscale derper; do \
		echo "image: keelscale/$$target:$(VERSION)"; \
		$$build --target $$target --build-arg VERSION=$(VERSION) --build-arg COMMIT=$(COMMIT) $(IMAGE_FLAGS) \
			-t keelscale/$$target:$(VERSION) -t keelscale/$$target:latest .; \
	done

.PHONY: clean
clean: ## removes what was built here; the clients stay in the cache
	rm -rf bin
