# `make` lists the targets. A machine with Python 3.11 or newer and make needs nothing else.
# Installation speaks on stderr, so that stdout carries only what a target answers.

# Containers often forbid Python to keep compiled modules: then every process of ours compiles all it imports, three seconds each.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo demo-once up test lint format types lock mutate-schema races budget-races chaos-boundary callback-sequences wrong-roots nightly bench bench-quick bench-growth bench-long bench-scale bench-console clean

UV_VERSION := 0.13.8
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$python && break; done)
BIN := .venv/bin
# The stamp names the folder: in a copied or moved one everything is laid anew.
INSTALLED := .venv/installed-$(shell pwd | cksum | cut -d " " -f 1)
PORT ?=
ARGS ?=
WHOLE ?=
UV := .venv/uv-$(UV_VERSION)
ON_PORT = $(if $(PORT),--port $(PORT))

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  Variables: PORT=8080 for up and demo, ARGS='-k name' and WHOLE=1 for test, PYTHON=python3.12 for install."

install: $(INSTALLED)  ## locked dependencies and the project itself into .venv (when something changed)

$(INSTALLED): requirements.lock pyproject.toml $(UV)
	@{ $(BIN)/uv pip sync --require-hashes --python $(BIN)/python requirements.lock && \
	  $(BIN)/uv pip install --python $(BIN)/python --no-deps --no-build-isolation --editable . && touch $@; } >&2

$(UV):
	@{ test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed, and none was found; PYTHON=... names one."; exit 1; }; \
	  { test -x $(BIN)/python || $(PYTHON) -m venv .venv; } && \
	  { $(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip; } && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION) && touch $@; } >&2

demo: install  ## watch two missions from nothing to an executed, verified change; serves until Ctrl-C
	@$(BIN)/mission-root demo $(ON_PORT)

demo-once: install  ## the same without a word: exit code 0 when everything held, one JSON object on stdout
	@$(BIN)/mission-root demo --once --json $(ON_PORT)

up: install  ## run everything here, data in .data, until Ctrl-C
	@$(BIN)/mission-root up $(ON_PORT)

test: install  ## the tests before a commit; WHOLE=1 all of them, as CI does (ARGS go to pytest)
	@$(BIN)/python -m pytest -n auto --dist loadgroup $(if $(WHOLE),,--short) $(ARGS)

lint: install  ## ruff: rules and format
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: install  ## let ruff rewrite what it can
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

types: install  ## mypy
	@$(BIN)/python -m mypy app colony colony_client colony_kit sample_crm

lock: $(UV)  ## resolve the dependencies of pyproject.toml anew into requirements.lock
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --custom-compile-command "make lock" --upgrade --group dev pyproject.toml --output-file requirements.lock

mutate-schema: install  ## drop every guard of the walls in turn: does a test notice?
	@$(BIN)/python -m tests.walls.mutate $(ARGS)

races: install  ## what two may do to one approval at the same moment: every pair, 5,000 times each
	@$(BIN)/python -m tests.approvals.races $(ARGS)

budget-races: install  ## 2,000 runs of 50 concurrent spends, and 500 random lives of a budget against a model
	@BUDGET_RACES=2000 BUDGET_EXAMPLES=500 $(BIN)/python -m pytest tests/budgets/test_races.py $(ARGS)

chaos-boundary: install  ## every kind of colony fault in every call, 10 times; a line for each kind with the worst times
	@BOUNDARY_FAULT_TIMES=$${BOUNDARY_FAULT_TIMES:-10} $(BIN)/python -m pytest tests/boundary/test_colony_faults.py $(ARGS)

callback-sequences: install  ## 3,000 disordered deliveries of callbacks and 1,000 of dispatches: as if once, in order
	@CALLBACK_SEQUENCES=$${CALLBACK_SEQUENCES:-3000} DISPATCH_SEQUENCES=$${DISPATCH_SEQUENCES:-1000} \
	  $(BIN)/python -m pytest tests/boundary/test_callback_sequences.py tests/boundary/test_dispatch_sequences.py $(ARGS)

wrong-roots: install  ## the whole kit on every root that is wrong in one thing: exactly what is broken is reported
	@ROOT_KIT_WHOLE=1 $(BIN)/python -m pytest tests/kit/test_root_kit.py $(ARGS)

nightly: install mutate-schema races budget-races chaos-boundary callback-sequences wrong-roots  ## what is too long for every commit: mutations, races, faults, the kill tests ten times over, a long run
	@for turn in 1 2 3 4 5 6 7 8 9 10; do $(BIN)/python -m pytest tests/walks || exit 1; done
	@$(BIN)/python -m bench.long_run --missions 20000

bench: install  ## everything measured against the limits and eight peers, at most 40 minutes
	@$(BIN)/python -m bench.full $(ARGS)

bench-quick: install  ## against the database's own limit and one peer, at most 5 minutes; JSON on stdout
	@$(BIN)/python -m bench.quick $(ARGS)

bench-growth: install  ## the same questions to 1,000 and to 1,000,000 missions; some ten minutes and 15 GB of disk
	@$(BIN)/python -m bench.growth $(ARGS)

bench-long: install  ## 200,000 missions at full speed with ten streams: do all counts agree? some half an hour
	@$(BIN)/python -m bench.long_run $(ARGS)

bench-scale: install  ## one, two and four root processes on one PostgreSQL: what they wait for
	@$(BIN)/python -m bench.scale_out $(ARGS)

bench-console: install  ## every page of the console behind 10,000 pending approvals and 100,000 missions: p50, p95, bytes
	@$(BIN)/python -m bench.console $(ARGS)

clean:  ## remove the environment and the caches; data in .data stays
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis dist
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
