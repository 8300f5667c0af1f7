# Every target sets up what it needs in .venv; nothing outside this folder is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# An interpreter with the package and its extra 'test', where torch sees the GPU.
GPU_PYTHON ?= $(BIN)/python
BENCH_INSTALLED := $(VENV)/.installed-bench

.PHONY: demo test test-gpu lint types check bench clean help

help:
	@echo "make demo   train a network on real digits with none, T1, T2 and naive; table and figure"
	@echo "make test   the whole test suite"
	@echo "make test-gpu  what needs a GPU; GPU_PYTHON=python3 for an interpreter of your own"
	@echo "make lint   ruff          make types  mypy"
	@echo "make bench  the benchmark, beside the peers"

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

$(BENCH_INSTALLED): $(INSTALLED)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/topoloss compare none t1=1e-3 t2=1 naive=0.3 --splits 3 --out runs/demo --fresh

test: $(INSTALLED)
	$(BIN)/pytest -n 2

test-gpu: $(if $(filter $(BIN)/python,$(GPU_PYTHON)),$(INSTALLED))
	$(GPU_PYTHON) -m pytest tests/gpu tests/plugins/test_triton_engine.py

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

check: lint types test

bench: $(BENCH_INSTALLED)
	$(BIN)/python -m benchmarks.t1_step

clean:
	rm -rf $(VENV)
