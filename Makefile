# What a person does with this project. `make` or `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
STAMP := $(VENV)/.installed
BIN := $(VENV)/bin
DATA := $(wildcard ../shared/data)
PORT ?=
DATA_DIR ?=
ARCHIVE ?=
PYTEST_ARGS ?=
SEEDS ?=
SIMULATE_ARGS ?=

.PHONY: help setup run test lint format types layering docs simulate soak lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv from requirements.lock (quick when nothing changed)

# The first of Python 3.11, 3.12, 3.13 that runs; a folder that another Python made is made anew.
$(STAMP): requirements.lock pyproject.toml
	@python=; for candidate in $(PYTHON) python3.11 python3.12 python3.13 python3; do \
	  if $$candidate -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; \
	  then python=$$candidate; break; fi; done; \
	if [ -z "$$python" ]; then echo "Python 3.11, 3.12 or 3.13 is needed; set PYTHON=/path/to/it." >&2; exit 1; fi; \
	echo "Setting up $(VENV) with $$($$python --version) …"; \
	$$python -m venv --clear $(VENV); \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

run: setup ## serve on 127.0.0.1:8787, convert a sample batch, keep serving until Ctrl-C (ARCHIVE=sample: and export metadata)
	@set -a; if [ -f .env ]; then . ./.env; fi; set +a; exec $(if $(ARCHIVE),$(BIN)/python -m tests.stand_ins.arke_api --port 0 --) $(BIN)/arke demo $(if $(PORT),--port $(PORT)) $(if $(DATA_DIR),--data-dir $(DATA_DIR)) $(if $(ARCHIVE),--export ROOT)

test: setup ## run all tests (PYTEST_ARGS="-k name" for some)
	@$(if $(DATA),ARKE_TEST_DATA=$(DATA)) $(BIN)/python -m pytest -m "not soak" $(PYTEST_ARGS)

lint: setup ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: setup ## let ruff rewrite what it can
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

types: setup ## mypy, strict
	@$(BIN)/mypy

layering: setup ## the import contracts of pyproject.toml
	@$(BIN)/lint-imports

docs: setup ## write the pages that are made from the code
	@$(BIN)/arke settings --page > docs/reference/settings.md.new
	@mv docs/reference/settings.md.new docs/reference/settings.md
	@$(BIN)/python -m tests.corpus.page > docs/reference/tiff.md.new
	@mv docs/reference/tiff.md.new docs/reference/tiff.md

simulate: setup ## the whole engine in simulation, SEEDS=10000 (SIMULATE_ARGS="--help" for more)
	@$(BIN)/python -m tests.simulation $(if $(SEEDS),--seeds $(SEEDS)) $(SIMULATE_ARGS)

soak: setup ## the tests that run for minutes
	@$(if $(DATA),ARKE_TEST_DATA=$(DATA)) $(BIN)/python -m pytest -m soak $(PYTEST_ARGS)

lock: setup ## write requirements.lock from what .venv holds
	@{ sed -n '/^#/p' requirements.lock; $(BIN)/python -m pip freeze --exclude-editable; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock

clean: ## remove the virtual environment and caches (data/ stays)
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build *.egg-info
