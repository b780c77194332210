# Every target sets up .venv if it has to: a new clone needs nothing but `make demo`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-gpu results faults lint clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# One stamp file for each set of packages, which is installed again when these files change. uv
# installs in a quarter of a minute what takes pip two; pip is used where uv fails.
$(VENV)/%.installed: PACKAGE = .$(if $(filter core,$*),,[$*])
$(VENV)/%.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "vdm needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing vdm ($*) into $(VENV) ..."
	@$(PIP_INSTALL) uv 2>/dev/null && $(BIN)/python -m uv pip install --quiet --python $(BIN)/python \
	  -c constraints.txt -e '$(PACKAGE)' || $(PIP_INSTALL) -c constraints.txt -e '$(PACKAGE)'
	@touch $@

demo: $(VENV)/core.installed  ## train, evaluate and sample a VDM on handwritten digits (minutes, CPU)
	$(BIN)/python -m vdm.main --config=configs/digits.py --workdir=runs/digits

test: $(VENV)/test.installed  ## run the fast tests, six or seven minutes on two cores
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not gpu"

test-all: $(VENV)/test.installed  ## run every test that needs no GPU
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not gpu"

test-gpu: $(VENV)/test.installed $(VENV)/cuda.installed  ## run the tests that need an NVIDIA GPU
	VDM_TEST_PLATFORM=cuda $(BIN)/python -m pytest -m gpu

results: $(VENV)/core.installed  ## write experiments/README.md (from results.json) and configs/README.md again
	$(BIN)/python -m experiments.page
	$(BIN)/python -m experiments.config_page

faults: $(VENV)/test.installed  ## kill runs 200 times at random and check that they still end bit for bit the same
	$(BIN)/python -m tests.faults.kills --kills=200 --json=tests/faults/kills.json

lint: $(VENV)/dev.installed  ## run ruff, pyrefly and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check
	$(BIN)/lint-imports

clean:  ## remove the environment and the caches, but never runs/
	rm -rf $(VENV) .jax_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
