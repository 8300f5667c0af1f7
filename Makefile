# Every target sets up what it needs in .venv; nothing outside this folder is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO_INSTALLED := $(VENV)/.installed-demo
WHEELS := .wheels
LOWEST := .venv-lowest
BENCH_INSTALLED := $(VENV)/.installed-bench
DOCS_INSTALLED := $(VENV)/.installed-docs
BROWSER_INSTALLED := $(VENV)/.installed-browser
# A Python where torch sees the GPU; by default that of $(VENV). What it lacks of the extra 'test' may
# lie as wheels in GPU_WHEELS, where `make gpu-wheels` puts the project, for its entry points, and
# beartype: a machine without a network is given that folder together with the checkout.
GPU_PYTHON ?=
GPU_WHEELS ?= .gpu-wheels
GPU_SITE := $(GPU_WHEELS)/site
GPU_RUN = PYTHONPATH=.:plugins:$(GPU_SITE) $(or $(GPU_PYTHON),$(BIN)/python)
# Further options of pytest, such as -W default where a newer torch warns of more.
GPU_OPTIONS ?=

.PHONY: demo test test-slow test-browser test-deep test-zoo test-lowest test-mutants test-gpu gpu-wheels wheels lint types check docs bench bench-report bench-gpu paper paper-report clean help

help:
	@echo "make demo   train a network on real digits without a penalty, with T1 and with T2; table and figure"
	@echo "make test   the test suite, but for what takes long"
	@echo "make test-slow  the rest: whole sweeps, cold caches, compilers, installed distributions, several processes"
	@echo "make test-browser  the page of a run in a real browser, which is installed: 700 MB"
	@echo "make test-deep  10,000 examples of each property, and long trainings; WORKERS=4 processes"
	@echo "make test-zoo  other people's models, those of full size too"
	@echo "make test-lowest  the suite on the lowest torch that is declared; downloads its CUDA build"
	@echo "make test-mutants  plant bugs, and see which the tests notice: hours; goes on where it ended; JOBS=2"
	@echo "make test-gpu  what needs a GPU; GPU_PYTHON=python3 for an interpreter of your own"
	@echo "make gpu-wheels  what such an interpreter may lack, to be carried where there is no network"
	@echo "make wheels  the wheel, installed by itself and tried on each Python of PYTHONS"
	@echo "make lint   ruff and spelling          make types  mypy"
	@echo "make docs   the site, in docs/_build/html; every code block is run"
	@echo "make bench  the benchmark, beside the peers; SIZES='1010 4096' for some sizes only"
	@echo "make bench-report  tables and figure of the committed rows"
	@echo "make paper  the paper's experiment, hours of runs; goes on where the committed ones end; FRESH=1 does all again"
	@echo "make paper-report  its tables and figures, of the committed runs"
	@echo "make bench-gpu     the benchmark on a GPU; GPU_PYTHON=python3 where torch is installed"

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ $(DEMO_INSTALLED)

$(BENCH_INSTALLED): $(INSTALLED)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	touch $@

$(DOCS_INSTALLED): $(INSTALLED)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

# Where no browser can be installed, its tests are skipped by name.
$(BROWSER_INSTALLED): $(INSTALLED)
	-$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[browser]'
	touch $@

# Less than the tests need, and with progress: the first command of whoever tries this.
$(DEMO_INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --constraint constraints.txt --editable '.[cli,compare]'
	touch $@

# The libraries of every process use one thread: threads that wait for one another beside busy
# processes make training many times slower.
demo: $(DEMO_INSTALLED)
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/topoloss \
		compare none t1=1e-3 t2=1 --splits 2 --out runs/demo --fresh
	@echo
	@echo "Try next: $(BIN)/topoloss compare none t1=1e-4,1e-3 t2=0.3,1 --splits 8"
	@echo "          $(BIN)/topoloss train --regulariser t1 --max-epochs 150 --out runs/t1"
	@echo "          $(BIN)/topoloss inspect runs/t1"

# Processes that share the tests; by default one for each core.
WORKERS ?= auto
# Neighbours stay together, so that what a file prepares for its tests is prepared in one process.
SHARED_OUT := -n $(WORKERS) --dist worksteal

test: $(INSTALLED)
	$(BIN)/pytest $(SHARED_OUT)

test-slow: $(INSTALLED)
	$(BIN)/pytest $(SHARED_OUT) -m slow

# The browser is 700 MB, so it is no part of what every test run installs.
test-browser: $(BROWSER_INSTALLED)
	$(BIN)/pytest tests/inspection

test-deep: $(INSTALLED)
	$(BIN)/pytest -n $(WORKERS) --hypothesis-profile=deep tests/properties
	$(BIN)/pytest -n $(WORKERS) -m deep

test-zoo: $(INSTALLED)
	$(BIN)/pytest -n 2 -m "" tests/zoo

# Everything as elsewhere, but torch, and Triton and torchvision that go with it; so the interpreter
# of kernels is another one, which does not run with this numpy.
test-lowest:
	$(PYTHON) -m venv $(LOWEST)
	grep -vE '^torch(vision)?==' constraints.txt > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/pip install --quiet --constraint $(LOWEST)/constraints.txt --editable '.[test]' 'torch==2.11.*'
	$(LOWEST)/bin/pytest -n 2 -k "not triton" tests/core tests/attaching tests/plugins tests/testing

# Mutants to try of each package, and how many at a time; goes on where an earlier run ended.
SIZE ?= 300
JOBS ?= 1

test-mutants: $(INSTALLED)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[mutants]'
	$(BIN)/python -m tests.mutants run --size $(SIZE) --jobs $(JOBS)

gpu-wheels: $(INSTALLED)
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir $(GPU_WHEELS) . beartype

# Nothing is fetched, and the checkout comes before the wheel on the path.
$(GPU_SITE): $(wildcard $(GPU_WHEELS)/*.whl)
	mkdir -p $@
	$(if $^,$(GPU_PYTHON) -m pip install --quiet --no-index --no-deps --upgrade --target $@ $^)

GPU_READY = $(if $(GPU_PYTHON),$(GPU_SITE),$(INSTALLED))

# With the conformance kit, one of whose rules runs every shipped component on the GPU.
test-gpu: $(GPU_READY)
	$(GPU_RUN) -m pytest $(GPU_OPTIONS) tests/gpu tests/plugins/test_triton_backend.py \
		tests/plugins/test_triton_light.py tests/plugins/test_triton_tensor_cores.py \
		tests/testing/test_shipped.py

# Interpreters to install the wheel on. One that is not here is told and left out.
PYTHONS ?= python3.11 python3.12 python3.13

# Outside the checkout, or Python would find the package there.
wheels:
	rm -rf $(WHEELS)
	$(PYTHON) -m venv $(WHEELS)/build
	$(WHEELS)/build/bin/pip wheel --quiet --no-deps --wheel-dir $(WHEELS) .
	for python in $(PYTHONS); do \
		$$python --version || { echo "$$python is not here: not tried"; continue; }; \
		$$python -m venv $(WHEELS)/$$python && \
		$(WHEELS)/$$python/bin/pip install --quiet --constraint constraints.txt \
			"$$(echo $(WHEELS)/*.whl)[cli,compare]" && \
		(cd $(WHEELS)/$$python && for command in --version plugins "check t1 --quiet" \
			"train --max-epochs 2 --quiet" "compare none t1=1e-3 --max-epochs 2 --quiet"; do \
			bin/python -m topoloss $$command || exit 1; done) || exit 1; \
	done

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell README.md CONTRIBUTING.md benchmarks changelog docs plugins topoloss

types: $(INSTALLED)
	$(BIN)/mypy

check: lint types test

# Studies to run, by name; all of them by default.
STUDIES ?=
# Anything, to do the finished ones again too.
FRESH ?=

# Sizes to time, in neurons; all of them by default.
SIZES ?=

bench: $(BENCH_INSTALLED)
	$(BIN)/python -m benchmarks.t1_step --neurons $(SIZES)
	$(BIN)/python -m benchmarks.hostile
	$(BIN)/python -m benchmarks.first_call
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.recording
	$(BIN)/python -m benchmarks.loops
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.pruning
	$(BIN)/python -m benchmarks.processes --processes 2
	$(BIN)/python -m benchmarks.processes --processes 4
	$(BIN)/python -m benchmarks.report

paper: $(INSTALLED)
	$(BIN)/python -m benchmarks.paper run $(STUDIES) $(if $(FRESH),--fresh)

paper-report: $(INSTALLED)
	# The order of sets decides that of lines in a figure.
	PYTHONHASHSEED=0 $(BIN)/python -m benchmarks.paper report

bench-report: $(INSTALLED)
	$(BIN)/python -m benchmarks.report

# One process for each size, whose rows are written as they come: run it again to go on.
bench-gpu: $(GPU_READY)
	for neurons in $(or $(SIZES),1010 10000 100000 276490 1000000); do \
		$(GPU_RUN) -m benchmarks.gpu_step --neurons $$neurons || exit 1; done
	$(GPU_RUN) -m benchmarks.gpu_step --neurons 10000 --inputs all
	$(GPU_RUN) -m benchmarks.gpu_step --neurons 100000 --inputs all

# Nothing that an earlier build left is looked at.
docs: $(DOCS_INSTALLED)
	rm -rf docs/_build
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --nitpicky docs docs/_build/html

clean:
	rm -rf $(VENV) docs/_build
