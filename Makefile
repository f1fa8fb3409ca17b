# Every habit of the project has one word. `make help` lists them.

CARGO ?= cargo
# What the demo and the tests need in release: the program, the Rust engine (with plantable faults), the C library.
RELEASE := -p bitnet-diff -p bitnet-cli -p bitnet-trace-cpp -p bitnet-trace-preload -p llama-gguf-recorder -p xtask \
           --features bitnet-cli/cpu,bitnet-cli/trace,bitnet-cli/faults,xtask/faults
# All of the workspace, whatever is built or tested of it: cargo gives dependencies the features of what is
# selected, and would compile candle and parquet once more for every other selection.
ALL := --workspace --features cpu,trace,inference,candle,ndarray

.DEFAULT_GOAL := help

help: ## list these words
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 22

demo: release ## set up, record llama.cpp, bitnet.cpp and the Rust engine, show where they diverge
	@scripts/setup.sh cpp bitnet models >/dev/null
	@target/release/xtask demo

test: release ## set up, then pass every check and test
	@scripts/setup.sh cpp bitnet models gemma python preload >/dev/null
	$(MAKE) --no-print-directory lint unit e2e story readers

release:
	@scripts/setup.sh tools
	$(CARGO) build --release $(RELEASE)

setup: release ## install and build what the engines need (llama.cpp, bitnet.cpp, the models, Python readers)
	scripts/setup.sh all

install-cpp: ## install headers and libraries for C and C++, for find_package and pkg-config: PREFIX=/usr/local
	PREFIX="$(or $(PREFIX),/usr/local)" scripts/setup.sh recorder

lint: ## rustfmt, clippy and the documentation, warnings as errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(ALL),faults,crossval --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --quiet $(ALL),faults

unit: ## the tests of every crate, with and without the features that change them
	$(CARGO) test $(ALL),faults
	$(CARGO) test $(ALL) --test generate --test recording
	$(CARGO) test -p bitnet-trace --no-default-features

e2e: ## the built programs on real engines: llama.cpp and bitnet.cpp against the Rust engine (after `make setup`)
	$(CARGO) test $(ALL),faults --test e2e -- --ignored

story: ## the demo's four steps, without set-up: each must end as told (after `make setup`)
	target/release/xtask demo

readers: ## DuckDB, pandas and Polars read the demo's parts (after `make story`)
	target/venv/bin/python -m unittest discover -s scripts/tests -v

corpus: release ## plant every class of fault in the Rust engine: do `first`, `judge` and `cross` name each one's place? [MODEL=SmolLM2-F32|...] [WRITE=1 for docs/FAULTS.md]
	@scripts/setup.sh cpp bitnet models >/dev/null
	target/release/xtask corpus $(if $(MODEL),--model $(MODEL)) $(if $(WRITE),--write docs/FAULTS.md)

honest: release ## judge honest runs, in pairs and alone: do `first` and `judge` let each one pass? [WRITE=1 for docs/HONEST-PAIRS.md]
	@scripts/setup.sh cpp bitnet models gemma >/dev/null
	target/release/xtask honest $(if $(WRITE),--write docs/HONEST-PAIRS.md)

bench-engines: ## how much slower the C++ engine is when it is recorded (after `make setup`, on a quiet machine)
	target/release/xtask bench-engines

fuzz: ## try the readers on inputs nobody thought of, each target for SECONDS=600 [TARGETS="part journal"]
	@scripts/fuzz.sh $(or $(SECONDS),600) $(TARGETS)

crash: ## kill a recorder 200 times at random moments, and check what is recovered: RUNS=
	CRASH_RUNS=$(or $(RUNS),200) $(CARGO) test $(ALL),faults --test crash -- --nocapture --test-threads=1

# The first builds the library anew, in target/sanitize. Not here: Miri, which stable Rust does not have, and the
# sanitizer of threads, which needs a standard library that is built for it.
sanitize: ## the tests of the C API under the sanitizers of addresses and undefined behaviour, and under valgrind
	BNT_TEST_UNDER=address $(CARGO) test $(ALL),faults --test c_programs --test sites
	BNT_TEST_UNDER=valgrind $(CARGO) test $(ALL),faults --test c_programs --test sites

fmt: ## format the code
	$(CARGO) fmt --all

bench: setup ## measure recording and comparing, on a quiet machine; WRITE=1 puts the tables into BENCHMARKS.md
	$(CARGO) bench -p bitnet-trace --bench speed -- $(if $(WRITE),--write $(CURDIR)/BENCHMARKS.md)
	$(CARGO) bench -p bitnet-diff --bench speed -- $(if $(WRITE),--write $(CURDIR)/BENCHMARKS.md)
	$(MAKE) --no-print-directory bench-engines

golden: ## write the golden run of the current format again
	$(CARGO) run --quiet -p bitnet-trace --example golden -- schemas/golden/v1

# The words of older guides.
crossval-per-token: ## compare the logits of both engines at every position: MODEL= PROMPT= [TOKENIZER=] [N=4]
	$(CARGO) run --quiet -p xtask --features inference -- crossval-per-token \
	    --model "$(MODEL)" $(if $(TOKENIZER),--tokenizer "$(TOKENIZER)") --prompt "$(PROMPT)" --max-tokens $(or $(N),4)

trace-diff: ## first divergence between two runs: RS= CPP=
	python3 scripts/trace_diff.py "$(RS)" "$(CPP)"

clean: ## remove everything that was built, downloaded or recorded
	rm -rf target

.PHONY: help demo test release setup install-cpp lint unit e2e story readers corpus honest crash fuzz sanitize bench bench-engines fmt golden \
        crossval-per-token trace-diff clean
