# Every target sets up what it needs in .venv; nothing outside this folder is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BENCH_INSTALLED := $(VENV)/.installed-bench
DOCS_INSTALLED := $(VENV)/.installed-docs

.PHONY: demo test lint types check bench docs clean help

help:
	@echo "make demo   train a network on real digits with none, T1, T2 and naive; table and figure"
	@echo "make test   the whole test suite"
	@echo "make lint   ruff          make types  mypy"
	@echo "make bench  the benchmark, beside the peers"
	@echo "make docs   the site, in docs/_build/html; every code block is run"

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

$(BENCH_INSTALLED): $(INSTALLED)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	touch $@

$(DOCS_INSTALLED): $(INSTALLED)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/topoloss compare none t1=1e-3 t2=1 naive=0.3 --splits 3 --out runs/demo --fresh

test: $(INSTALLED)
	$(BIN)/pytest -n 2

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

check: lint types test

bench: $(BENCH_INSTALLED)
	$(BIN)/python -m benchmarks.t1_step

# Nothing that an earlier build left is looked at.
docs: $(DOCS_INSTALLED)
	rm -rf docs/_build
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --nitpicky --jobs 2 docs docs/_build/html

clean:
	rm -rf $(VENV) docs/_build
