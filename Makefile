# `make train` on a fresh Debian or Ubuntu with Python 3.11 or later needs nothing else. Once .venv is set up, no
# target but `setup` touches the network, and that one only when the dependencies change.
PYTHON ?=
ARGS ?=
ready := .venv/.ready
python := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup train test test-slow check format bench build clean

help: ## list the targets (the default)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "Options for train go into ARGS: make train ARGS='--help'"

setup: $(ready) ## make .venv, install the pinned dependencies, check rendering

$(ready): pyproject.toml constraints.txt scripts/setup.sh
	PYTHON='$(PYTHON)' scripts/setup.sh

train: $(ready) ## train an arm-reaching policy from the shipped encoder
	$(python) train.py $(ARGS)

test: $(ready) ## run the tests, a few minutes on two processors
	OMP_NUM_THREADS=1 $(python) -m pytest -m "not slow" --numprocesses auto --maxprocesses 4 --dist loadfile

test-slow: $(ready) ## run the slow tests, which learn
	$(python) -m pytest -m slow

check: $(ready) ## check format, lint and types
	$(python) -m ruff format --check .
	$(python) -m ruff check .
	scripts/typecheck.sh

format: $(ready) ## format and mend what ruff can
	$(python) -m ruff format .
	$(python) -m ruff check --fix .

bench: $(ready) ## measure rendering and pretraining (see benchmarks/README.md)
	$(python) benchmarks/rendering.py
	$(python) benchmarks/pretraining.py

build: $(ready) ## build the wheel and the source distribution into dist/
	$(python) -m build --no-isolation

clean: ## remove build products and caches; keeps .venv, runs and data
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
