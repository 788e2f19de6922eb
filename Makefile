# Every target makes or refreshes .venv first. PYTHON may name another interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types check bench

help:
	@echo "make setup   install everything into .venv"
	@echo "make demo    run conf/demo.yaml and print the table"
	@echo "make test    run the test suite"
	@echo "make lint    style;  make types: static types;  make check: lint, types and tests"
	@echo "make bench   measure speed against the figures in benchmarks/README.md"

setup: $(READY)

# A set-up that was cut short leaves no 'ready' and is gone on with.
$(READY): requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

demo: $(READY)
	$(RUN) -m harness run conf/demo.yaml --workers 2

test: $(READY)
	$(RUN) -m pytest

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports --no-logo

types: $(READY)
	$(RUN) -m mypy

check: lint types test

bench: $(READY)
	$(RUN) -m benchmarks.sweep
