# Two commands: make quickstart, make test. Each makes .venv where it is missing, installs what it needs, and runs.
# No root, no apt, no stdin. Another Python: make test PYTHON=python3.12 (3.11 and newer; only 3.11 was tried).

PYTHON ?= python3
OUT ?= runs/quickstart
# What a machine may or may not take: an extra of pyproject.toml each. One that cannot be installed is said so.
RUNTIMES := ort tensorrt-rtx openvino litert
EXTRAS := $(RUNTIMES) ray

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
TRAIN := $(VENV)/.installed-train
TEST := $(VENV)/.installed-test

.PHONY: quickstart test
.DEFAULT_GOAL := quickstart

quickstart: $(TRAIN)
	@$(BIN)/skd-edge compress recipes/quickstart.yaml --out "$(OUT)"
	@echo "the report: $$(cd "$(OUT)" && pwd)/report.html"

test: $(TEST)
	@$(BIN)/python -m pytest

# A stamp is newer than pyproject.toml once its install is whole; one that broke off is done again.
$(TRAIN): pyproject.toml | $(BIN)/python
	@$(PIP) install --quiet --editable '.[train]'
	@touch $@

$(TEST): pyproject.toml | $(BIN)/python
	@$(PIP) install --quiet --editable '.[dev]'
	@for extra in $(EXTRAS); do \
	  $(PIP) install --quiet --editable ".[$$extra]" || echo "this machine does not take the extra $$extra; going on"; \
	done
	@$(PIP) install --quiet --no-deps torchdistill || echo "no torchdistill here: its losses are not compared with ours"
	@touch $(TRAIN) $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is missing or older than 3.11; name another: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "$(PYTHON) cannot make a virtual environment (Debian: install python3-venv); or make .venv yourself" >&2; exit 1; }
