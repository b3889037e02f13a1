# The doors into the project; `make` alone lists them. `make train ARGS="movielens dataset=D1"` passes arguments on.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
LINK := build/src

.DEFAULT_GOAL := help
.PHONY: help setup train test check ui clean

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP)  ## make .venv and install the pinned packages; once, and again when the pins change

train: $(STAMP)  ## train a team on the built-in world and print its table
	$(BIN)/concertrl train $(ARGS)

test: $(STAMP)  ## run the tests
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

# A checker that reads folders, and imports nothing, must meet the package under its own name.
check: $(STAMP)  ## lint, format, types and the import contract
	@mkdir -p $(LINK) && ln -sfn ../.. $(LINK)/concertrl
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	PYTHONPATH=$(LINK) $(BIN)/lint-imports

ui: $(STAMP)  ## open the runs in MLflow's web interface
	$(BIN)/concertrl ui $(ARGS)

clean:  ## remove what building and testing leave behind; .venv and runs stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.*' -prune -exec rm -rf {} +

# No network is used while the stamp is newer than both files.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
	    echo 'make: $(PYTHON) is not Python 3.11, 3.12 or 3.13; name one with make PYTHON=python3.12 ...' >&2; exit 2; }
	@echo 'setup: making $(VENV)'
	@$(PYTHON) -m venv $(VENV)
	@echo 'setup: installing the pinned packages; this takes some minutes, once'
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)
	@echo 'setup: done'
