# Every target installs what it needs; requires Python 3.10 or newer and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Stamp files of environments: with the runtime dependencies, and with those of tests and checks as well.
INSTALLED := $(VENV)/.installed
READY := $(VENV)/.ready
# Single-threaded worker processes, at most eight: each needs a gigabyte. A test file runs in one worker. Byte code is
# stored, because tests start many processes.
SIDE_BY_SIDE := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses=auto --maxprocesses=8 \
	--dist=loadfile --durations=25 --durations-min=1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test check slow models gpu gpu-checks gpu-kernels gpu-models clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(READY) ## install everything into .venv (the first time: minutes and about 6 GB)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(READY): $(INSTALLED)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[test,dev]"
	@touch $@

demo: $(INSTALLED) ## run the whole chain on built-in images; ends with a table and a report
	rm -rf runs/demo
	$(BIN)/toolkit run --recipe toolkit/default.yaml --run runs/demo --allow-invalid

test: $(READY) ## run the tests and require their coverage
	$(SIDE_BY_SIDE) --cov --cov-report=term --ignore=tests/test_layout.py

check: $(READY) ## style, types, import order, and the contents of a wheel
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest tests/test_layout.py

slow: $(READY) ## run slow tests, speed tests, and many random pruning plans
	$(SIDE_BY_SIDE) -m "slow and not speed and not gpu"
	$(BIN)/pytest -m speed
	TOOLKIT_MANY_EXAMPLES=1 $(BIN)/pytest tests/models/test_surgery.py

models: $(READY) ## test which of timm's models can be pruned and exported: docs/models.md (4 minutes on 2 cores)
	OMP_NUM_THREADS=1 $(BIN)/python -m toolkit.export.survey docs/models.md

# These use the installed packages: those of a GPU machine may be fixed. Each takes at most 150 seconds on an H100, and
# resumes where it ended when called again.
GPU_PYTHON = PYTHONPATH=$(CURDIR)$${PYTHONPATH:+:$$PYTHONPATH} $(or $(wildcard $(BIN)/python),$(PYTHON))

gpu: ## on a machine with a GPU: correctness and speed of kernels and models
	$(MAKE) --no-print-directory --keep-going gpu-checks gpu-kernels gpu-models

gpu-checks: ## tests of the kernels, and compute-sanitizer
	$(GPU_PYTHON) .ci/gpu/checks.py

gpu-kernels: ## the headwise kernel against PyTorch's attention
	$(GPU_PYTHON) -m toolkit.bench.acceptance kernels

gpu-models: ## dense and pruned models: eager, compiled, in CUDA graphs
	$(GPU_PYTHON) -m toolkit.bench.acceptance models

clean: ## remove what the targets above made
	rm -rf $(VENV) build dist *.egg-info runs/demo htmlcov .coverage .coverage.*
	rm -rf .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
	find toolkit kernels export bench tests -name __pycache__ -type d -prune -exec rm -rf {} +
