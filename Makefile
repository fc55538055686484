# Every target makes the virtual environment it needs; only python3 and make have to be there.
#
#   make demo               train, audit and compare two models on real digits; writes demo/
#   make test               all checks: lint, types, layers, unit, docs
#   make test-slow          the tests marked slow, which `make test` leaves out
#   make test-pages         every page of the site in headless Chromium: nothing cut, no error, no other host
#   make test-latest        all checks on the newest Python found; test-latest-quick: the quick tests
#   make test-device        the quick tests on the accelerator at hand; ACCELERATOR=cuda13 names JAX's build for it,
#                           DEVICE_PYTHON=python3 takes an environment that is there, and installs nothing
#   make test-lowest        the quick tests on the lowest versions that pyproject.toml allows
#   make coverage           which lines of scorefp/ the tests run
#   make docs | bench       the site in site/ | the benchmark tables
#   make reproduce-deveney  Tables 1–3 and Figures 2–5 of Deveney 2023; resumes from docs/assets/deveney/
#   make mnist              a U-Net on real MNIST, fine-tuned with the Fokker–Planck term; resumes from docs/assets/mnist/
#   make data-efficiency    regularisers against the number of samples; resumes from docs/assets/data_efficiency/
#   make compare-regularisers  every regulariser at equal computing time; resumes from docs/assets/regularisers/

PYTHON ?= python3
VENV   := .venv
BIN     = $(VENV)/bin
STAMP  := $(VENV)/.stamp
EXTRAS := train,images,plot,flow,ot,guides,examples,docs,dev

# PyTorch, which the tests of PyTorch scores need; without it they are skipped, and say so. It is named to the last digit,
# of which a build for CPUs is not at hand everywhere; pip then takes one for GPUs, of several gigabytes. TORCH= leaves
# it out, TORCH=torch takes the newest.
TORCH ?= $(if $(findstring 3.11,$(shell $(PYTHON) --version)),torch==2.13.0)

# The newest Python that runs and is newer than $(PYTHON); empty when there is none.
latest_python = $(shell \
    mine=$$($(PYTHON) -c 'import sys; print(sys.version_info[1])'); \
    for p in python3.13 $(HOME)/.pyenv/versions/3.13*/bin/python \
             python3.12 $(HOME)/.pyenv/versions/3.12*/bin/python; do \
        theirs=$$("$$p" -c 'import sys; print(sys.version_info[1])' 2>/dev/null) || continue; \
        if [ "$$theirs" -gt "$$mine" ]; then echo "$$p"; break; fi; \
    done)

# Tests run on the CPU. What they compile is kept between runs, apart for each environment.
PYTEST = JAX_PLATFORMS=cpu JAX_COMPILATION_CACHE_DIR=$(CURDIR)/.cache/jax$(VENV) $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help demo test lint types layers unit docs test-slow test-pages test-quick test-latest \
        test-latest-quick test-device test-lowest coverage latest-python bench reproduce-deveney mnist data-efficiency compare-regularisers serve clean

help:
	@sed -n '3,/^$$/s/^# *//p' Makefile

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "scorefp needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	@touch $@

$(VENV)/.torch: $(STAMP)
	$(if $(TORCH),$(BIN)/python -m pip install --quiet $(TORCH))
	@touch $@

demo: $(STAMP)
	$(BIN)/python examples/digits.py

test: lint types layers unit docs

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: $(STAMP)
	$(BIN)/basedpyright --pythonpath $(BIN)/python

layers: $(STAMP)
	$(BIN)/lint-imports --no-cache --no-logo

unit: $(VENV)/.torch
	$(PYTEST)

coverage: $(VENV)/.torch
	$(PYTEST) --cov=scorefp --cov-report=term:skip-covered

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

serve: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

test-slow: $(VENV)/.torch
	$(PYTEST) -m slow

test-pages: $(STAMP)
	$(PYTEST) -m slow -n 0 tests/test_pages.py

test-quick: $(VENV)/.torch
	$(PYTEST) -m 'quick and not slow'

test-latest test-latest-quick:
	@test -n "$(latest_python)" || { echo "No Python newer than $(PYTHON) found."; exit 1; }
	$(MAKE) $(subst -latest,,$@) PYTHON=$(latest_python) VENV=.venv-latest

# Empty for what `pip install jax` brings, which knows CPUs alone.
ACCELERATOR := cuda13

DEVICE_PYTHON ?= .venv-device/bin/python
test-device: $(if $(filter .venv-device/%,$(DEVICE_PYTHON)),.venv-device/.stamp)
	JAX_PLATFORMS= XLA_PYTHON_CLIENT_PREALLOCATE=false JAX_COMPILATION_CACHE_DIR=$(CURDIR)/.cache/jax-device \
	    PYTHONPATH=$(CURDIR):$$PYTHONPATH $(DEVICE_PYTHON) -m pytest -m 'quick and not slow'

.venv-device/.stamp: pyproject.toml
	$(PYTHON) -m venv --clear .venv-device
	.venv-device/bin/python -m pip install --quiet --editable '.[$(EXTRAS)]' $(if $(ACCELERATOR),'jax[$(ACCELERATOR)]')
	@touch $@

# pip takes the newest versions; uv can take the lowest.
test-lowest: VENV := .venv-lowest
test-lowest: .venv-lowest/.stamp
	$(PYTEST) -m 'quick and not slow'

.venv-lowest/.stamp: pyproject.toml | .venv-uv/.stamp
	.venv-uv/bin/uv venv --quiet --clear --seed --python $(PYTHON) .venv-lowest
	.venv-uv/bin/uv pip install --quiet --python .venv-lowest --resolution lowest-direct --editable '.[$(EXTRAS)]'
	@touch $@

.venv-uv/.stamp:
	$(PYTHON) -m venv --clear .venv-uv
	.venv-uv/bin/python -m pip install --quiet uv
	@touch $@

latest-python:
	@echo "$(latest_python)"

bench: $(STAMP)
	@set -e; for script in $(filter-out benchmarks/before_after.py,$(wildcard benchmarks/*.py)); do echo "== $$script"; $(BIN)/python "$$script"; done

reproduce-deveney: $(STAMP)
	$(BIN)/python examples/deveney.py

mnist: $(STAMP)
	$(BIN)/python examples/mnist.py

data-efficiency: $(STAMP)
	$(BIN)/python examples/data_efficiency.py

compare-regularisers: $(STAMP)
	$(BIN)/python examples/regularisers.py

clean:
	rm -rf .cache .pytest_cache .ruff_cache site .venv .venv-device .venv-latest .venv-lowest .venv-uv
