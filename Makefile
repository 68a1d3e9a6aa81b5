# Everything runs in .venv with the versions of constraints.txt; only Python 3.11 and pip are needed.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
DEMO := .demo
FUZZ_S ?= 3600
FUZZ_SEED ?= $(shell date +%s)

.PHONY: demo test test-slow fuzz test-environments check bench profiles clean

demo: .venv/installed-torch
	@mkdir -p $(DEMO)
	$(BIN)/llmpq search --model llama-3.1-70b --cluster a100-l40s --batch 32 \
	  --prompt-tokens 512 --output-tokens 128 --quality-at-least int4 --out $(DEMO)/plan.json --force
	$(BIN)/llmpq verify $(DEMO)/plan.json
	$(BIN)/llmpq simulate $(DEMO)/plan.json
	$(BIN)/llmpq demo --dir $(DEMO)/run

test: .venv/installed-test  # all but what takes minutes, of which it runs a sample
	$(BIN)/python -m pytest --numprocesses auto -p no:benchmark -m "not slow"

test-slow: .venv/installed-test
	$(BIN)/python -m pytest --numprocesses auto -p no:benchmark -m slow

fuzz: .venv/installed-test  # for as long as FUZZ_S says; what fails is in fuzz-faults/
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_S) --seed $(FUZZ_SEED)

test-environments: .venv/installed-test
	tests/environments.sh

check: .venv/installed-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed-test
	$(BIN)/python -m pytest tests/benchmarks -o python_files='bench_*.py' --benchmark-only

# Makes the latency profiles of cluster_profiles/profiles again from the measurements behind them.
profiles: .venv/installed-test
	$(BIN)/python -m tests.golden.shipped_profiles

clean:
	rm -rf .venv $(DEMO)

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) --editable .
	@touch $@

.venv/installed-torch: .venv/installed
	$(PIP) 'torch==2.13.0'
	$(PIP) --editable '.[torch]'
	@touch $@

.venv/installed-test: .venv/installed-torch
	$(PIP) --editable '.[test]'
	@touch $@

.venv/installed-check: .venv/installed-test
	$(PIP) --editable '.[test,check]'
	@touch $@
