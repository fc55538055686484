# Every target makes the virtual environment it needs; only python3 and make have to be there.
#
#   make demo               train, audit and compare two models on real digits; writes demo/
#   make test               all checks: lint, types, layers, unit, docs
#   make test-slow          the tests marked slow
#   make test-latest        the unit tests, fast and slow aside, on the newest Python found
#   make docs | bench       the site in site/ | the benchmark tables

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.stamp

# The newest Python that runs and is newer than $(PYTHON); empty when there is none.
latest_python = $(shell for p in python3.13 $(HOME)/.pyenv/versions/3.13*/bin/python \
                                 python3.12 $(HOME)/.pyenv/versions/3.12*/bin/python; do \
    mine=$$($(PYTHON) -c 'import sys; print(sys.version_info[1])'); \
    theirs=$$("$$p" -c 'import sys; print(sys.version_info[1])' 2>/dev/null) || continue; \
    if [ "$$theirs" -gt "$$mine" ]; then echo "$$p"; break; fi; \
done)

LATEST_VENV  := .venv-latest
LATEST_STAMP := $(LATEST_VENV)/.stamp

# Compiled test functions are kept between runs, apart for each environment.
TEST_ENV = JAX_PLATFORMS=cpu JAX_COMPILATION_CACHE_DIR=$(CURDIR)/.cache/jax-$(notdir $(1))

.DEFAULT_GOAL := help
.PHONY: help demo test lint types layers unit docs test-slow test-latest test-latest-quick latest-python \
        bench serve clean

help:
	@sed -n '3,7s/^# *//p' Makefile

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "scorefp needs Python 3.11 or newer: make PYTHON=python3.12"'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[train,plot,ot,examples,docs,dev]'
	touch $@

$(LATEST_STAMP): pyproject.toml
	@test -n "$(latest_python)" || { echo "No Python newer than $(PYTHON) found."; exit 1; }
	$(latest_python) -m venv --clear $(LATEST_VENV)
	$(LATEST_VENV)/bin/python -m pip install --quiet --editable '.[train,plot,ot,examples,dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/python examples/digits.py

test: lint types layers unit docs

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/basedpyright --pythonpath $(BIN)/python

layers: $(STAMP)
	$(BIN)/lint-imports --no-cache

unit: $(STAMP)
	$(call TEST_ENV,$(VENV)) $(BIN)/python -m pytest

docs: $(STAMP)
	$(BIN)/mkdocs build --strict --quiet

serve: $(STAMP)
	$(BIN)/mkdocs serve

test-slow: $(STAMP)
	$(call TEST_ENV,$(VENV)) $(BIN)/python -m pytest -m slow

test-latest: $(LATEST_STAMP)
	$(call TEST_ENV,$(LATEST_VENV)) $(LATEST_VENV)/bin/python -m pytest

test-latest-quick: $(LATEST_STAMP)
	$(call TEST_ENV,$(LATEST_VENV)) $(LATEST_VENV)/bin/python -m pytest -m 'quick and not slow'

latest-python:
	@echo "$(latest_python)"

bench: $(STAMP)
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script"; done

clean:
	rm -rf .cache .pytest_cache .ruff_cache site $(VENV) $(LATEST_VENV)
