# Everything starts here; `make help` lists it.  Each target does its own set-up.

PYTHON ?= python3
SEEDS ?= 1000
# The first seed: fresh with every run, printed for the next one.
START := $(or $(START),$(shell date +%s))
JOBS ?= $(shell nproc)
VENV := .venv
BIN := $(VENV)/bin
RUST_SOURCES := $(shell find crates -name '*.rs' -o -name Cargo.toml) Cargo.toml Cargo.lock
PYTHON_PATHS := python tests bench

# segue-native is an extension module: what it does is tested from Python.
CARGO_TEST := cargo test --workspace --exclude segue-native

.DEFAULT_GOAL := help
.PHONY: help setup tools demo test test-rust test-unit test-tools test-real lint format sim \
	sim-determinism sim-mutants bench fuzz clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.native ## Virtual environment and native module, built in release mode

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed (PYTHON=...)" >&2; exit 1; }
	@cargo --version >/dev/null 2>&1 \
		|| { echo "Rust 1.85 or newer is needed: install it with rustup" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || tests/tools/install-venv
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check 'maturin>=1.9,<2'
	@touch $@

# Installs the project's dependencies and its dev extra too.
$(VENV)/.native: $(VENV)/.made pyproject.toml $(RUST_SOURCES)
	@echo "building the native module (the first time takes some minutes)"
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/maturin develop --release --extras dev \
		> $(VENV)/build.log 2>&1 || { cat $(VENV)/build.log; exit 1; }
	@touch $@

tools: ## Debian packages of the test tools (as root; else says what to install)
	@tests/tools/install

demo: setup ## Real processes, real data, kill -9: exits 0 only if every byte was right
	$(BIN)/python -m segue.demo

test: test-rust test-unit test-tools test-real sim sim-determinism sim-mutants ## Everything that must pass

test-rust: ## The engines' own tests
	$(CARGO_TEST) --quiet

test-unit: setup tools ## tests/unit, and the scripted incidents of tests/sim
	$(BIN)/pytest tests/unit tests/sim

test-tools: setup tools ## tests/tools: other people's clients against real processes
	$(BIN)/pytest tests/tools

test-real: setup tools ## tests/real: filesystems, a database, machines, `segue attach`
	$(BIN)/pytest tests/real

lint: setup ## Formatting, ruff, mypy --strict, clippy, the stub of the native module
	$(BIN)/ruff format --check $(PYTHON_PATHS)
	$(BIN)/ruff check $(PYTHON_PATHS)
	$(BIN)/mypy
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	$(BIN)/python -m mypy.stubtest segue._native

format: setup ## Reformat everything
	$(BIN)/ruff format $(PYTHON_PATHS)
	cargo fmt --all

sim: setup ## The simulator over SEEDS=n seeds from START=n on (default: fresh ones)
	@echo "simulator: seeds $(START) and following"
	$(BIN)/python -m segue.sim --seeds $(SEEDS) --start $(START) --jobs $(JOBS) --keep-going

sim-determinism: setup ## The same seeds in two processes with other hash seeds: the same traces
	@for hash in 1 2; do \
		PYTHONHASHSEED=$$hash $(BIN)/python -m segue.sim --seeds 20 --start $(START) --digest \
			| grep '^seed ' > $(VENV)/digest.$$hash || exit 1; \
	done
	@cmp $(VENV)/digest.1 $(VENV)/digest.2 && echo "20 seeds: the same traces"

sim-mutants: setup ## Deliberate mistakes in engine, controller and store: each must be caught
	$(BIN)/python -m segue.sim.mutants --jobs $(JOBS)

bench: setup tools ## How fast, beside its peers; a part of it: ROWS="page faults"
	@$(BIN)/python -c 'import matplotlib' 2>/dev/null \
		|| $(BIN)/pip install --quiet --disable-pip-version-check 'matplotlib>=3.8,<4'
	$(BIN)/python bench/run.py $(ROWS)
	$(BIN)/python bench/plots.py

# What cargo-fuzz passes to rustc; the stable compiler takes all of it.
FUZZ_FLAGS := --cfg fuzzing -Cdebug-assertions=on -Coverflow-checks=on -Ccodegen-units=1 \
	-Cpasses=sancov-module $(addprefix -Cllvm-args=-sanitizer-coverage-,level=4 \
	inline-8bit-counters pc-table trace-compares)
# Named, so that build scripts are built without these flags.
FUZZ_HOST = $(shell rustc -vV | sed -n 's/^host: //p')
FUZZ_S ?= 60

fuzz: ## libFuzzer at the NBD halves and the mapping engine, FUZZ_S seconds each
	cd fuzz && RUSTFLAGS="$(FUZZ_FLAGS)" cargo build --quiet --release --target $(FUZZ_HOST) \
		--target-dir target
	@for target in nbd_server nbd_client map_engine; do \
		mkdir -p fuzz/corpus/$$target fuzz/artifacts || exit 1; \
		fuzz/target/$(FUZZ_HOST)/release/$$target -max_total_time=$(FUZZ_S) -max_len=4000 -timeout=10 \
			-print_final_stats=1 -verbosity=0 -artifact_prefix=fuzz/artifacts/ \
			fuzz/corpus/$$target || exit 1; \
	done

clean: ## Remove what was built (not the virtual environment)
	cargo clean
	rm -f $(VENV)/.native
