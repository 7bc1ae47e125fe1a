# Every target sets itself up: Python 3.10 or newer and make are all it takes.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test check slow gpu clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(READY) ## install everything into .venv (the first time: minutes and about 6 GB)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[test,dev]"
	@touch $@

demo: $(READY) ## run the whole chain on built-in images; ends with a table and a report
	rm -rf runs/demo
	$(BIN)/toolkit run --recipe toolkit/default.yaml --run runs/demo --allow-invalid

test: $(READY) ## run the tests and require their coverage
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses=auto --dist=loadfile --cov --cov-report=term

check: $(READY) ## style, types, import order, and what a wheel holds
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest tests/test_layout.py

slow: $(READY) ## run the tests that take minutes, and random plans in numbers
	$(BIN)/pytest -m "slow and not gpu"
	TOOLKIT_MANY_EXAMPLES=1 $(BIN)/pytest tests/models/test_surgery.py

# With the packages that are there: a machine with a GPU may be one whose packages cannot be changed.
gpu: ## on a machine with a GPU: are the kernels right, and how fast (20 minutes)
	$(or $(wildcard $(BIN)/python),$(PYTHON)) -m toolkit.bench.gpu

clean: ## remove what the targets above made
	rm -rf $(VENV) build dist *.egg-info runs/demo htmlcov .coverage .coverage.*
	rm -rf .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
	find toolkit kernels export bench tests -name __pycache__ -type d -prune -exec rm -rf {} +
