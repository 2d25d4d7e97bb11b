# Every target works on a fresh machine with Go and, for the race detector, a C compiler.
GO ?= go
CGO := $(shell command -v $$($(GO) env CC) >/dev/null 2>&1 && echo 1 || echo 0)
RACE := $(if $(filter 1,$(CGO)),-race,)
PKG ?= ./...
COUNT ?= 5

.PHONY: build demo test check bench fuzz chaos clean

build: ## bin/valise
	$(GO) build -o bin/valise ./cmd/valise

demo: build ## three nodes at two sites, one mail through them; stays up until Ctrl-C
	./bin/valise demo

test: ## everything, shuffled, with the race detector where a C compiler is at hand
ifeq ($(RACE),)
	@echo "valise: no C compiler found: running without the race detector"
endif
	CGO_ENABLED=$(CGO) $(GO) test $(RACE) -shuffle=on -timeout 20m $(PKG)

check: ## gofmt, vet, staticcheck, import rules, tests
	@bad=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$bad" || { echo "not gofmt-ed:"; echo "$$bad"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) mod tidy -diff
	$(MAKE) test

bench: ## medians of COUNT runs, with spread and ratios to a limit measured in the same run
	COUNT=$(COUNT) PKG="$(PKG)" GO="$(GO)" sh testnet/bench.sh

fuzz: ## every fuzzer for FUZZTIME each
	GO="$(GO)" FUZZTIME=$${FUZZTIME:-60s} sh testnet/fuzz.sh

CHAOS ?= 30m
chaos: ## mail through a failing village for CHAOS, from seed SEED or a random one, which is printed
	CGO_ENABLED=$(CGO) VALISE_CHAOS=$(CHAOS) VALISE_CHAOS_SEED=$(SEED) $(GO) test $(RACE) -count=1 -timeout 0 -v -run '^(TestChaos|TestE1_PowerIsCutBetweenAnySteps)$$' ./testnet/

clean:
	rm -rf bin
