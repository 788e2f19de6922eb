# Every target makes or refreshes .venv first. PYTHON may name another interpreter (3.11 to 3.13).
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test storms quick lint types check format bench bench-peer fuzz

help:
	@echo "make setup   install everything into .venv (uv where it is installed, else pip)"
	@echo "make demo    run conf/demo.yaml on real photographs, print the table, and what to do next"
	@echo "make test    run the test suite;  make quick: its unit tests alone, no cluster, no torch"
	@echo "make storms  take nodes, workers, memory, disks and servers away while sweeps run"
	@echo "make lint    style and import contracts;  make types: static types"
	@echo "make check   lint, types, tests and storms;  make format: mend style in place"
	@echo "make bench   measure speed and memory, ten minutes;  make bench-peer: against anomalib, longer"
	@echo "make fuzz    2,000 broken configs, damaged folders, hostile methods: n right of N"

setup: $(READY)

# A set-up that was cut short leaves no 'ready' and is gone on with.
$(READY): requirements.txt
	@PYTHON="$(PYTHON)" VENV="$(VENV)" sh tools/setup.sh
	@touch $@

demo: $(READY)
	$(RUN) -m harness demo

# Two files at a time; three of those that start clusters and servers, for they wait most of their
# time, in the order of tests/conftest.py.
test: $(READY)
	$(RUN) -m pytest -m "not slow and not storm" --numprocesses 2 --dist loadfile
	$(RUN) -m pytest -m slow --numprocesses 3 --dist loadfile --no-loadscope-reorder

# Who measures what memory the machine has left runs alone.
storms: $(READY)
	$(RUN) -m pytest -m storm --numprocesses 3 --dist loadfile --no-loadscope-reorder --ignore tests/test_faults_host.py
	$(RUN) -m pytest tests/test_faults_host.py

quick: $(READY)
	$(RUN) -m pytest -m "not slow and not storm and not heavy" --numprocesses 2 --dist loadfile

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports --no-logo
	$(RUN) -m tools.names

types: $(READY)
	$(RUN) -m mypy

format: $(READY)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

check: lint types test storms

# Both write benchmarks/results.md and results.json, and say in red what got worse on this machine.
bench: $(READY)
	$(RUN) -m benchmarks.suite $(BENCH)

bench-peer: $(READY)
	$(RUN) -m benchmarks.suite --peer $(BENCH)

# Nonsense, damage and harm by the thousand; five minutes.
fuzz: $(READY)
	$(RUN) -m benchmarks.fuzz
