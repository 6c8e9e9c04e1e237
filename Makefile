# Two commands: make quickstart, make test. Each makes .venv where it is missing, installs what it needs, and runs.
# No root, no apt, no stdin. Another Python: make test PYTHON=python3.12 (3.11 to 3.13 were tried).
# What is installed are the versions that were tested together (constraints/); NEWEST=1 takes the newest instead.
# make test-fast: what neither trains nor starts a cluster, while one edits. make test-gpu: the runtimes of a GPU.
# make constraints: install the newest, run the tests, and write down what passed.

PYTHON ?= python3
OUT ?= runs/quickstart
# What a machine may or may not take: an extra of pyproject.toml each. One that cannot be installed is said so.
RUNTIMES := ort tensorrt-rtx openvino litert
EXTRAS := $(RUNTIMES) ray

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# A Python for which no versions were written down gets the newest.
PINS = $$(file=constraints/python$$($(BIN)/python -c 'import sys; print("{}.{}".format(*sys.version_info))').txt; \
  if [ -z "$(NEWEST)" ] && [ -f "$$file" ]; then echo "--constraint $$file"; fi)
INSTALL = $(PIP) install --quiet $(PINS)
NOT_HERE = { echo "the tested versions do not install here; make NEWEST=1 takes the newest ones instead" >&2; exit 1; }
TRAIN := $(VENV)/.installed-train
TEST := $(VENV)/.installed-test

# A file of tests goes to one of two processes whole, since its fixtures are dear; one thread each, or they would wait for
# each other on two cores.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

.PHONY: quickstart test test-fast test-gpu constraints
.DEFAULT_GOAL := quickstart

quickstart: $(TRAIN)
	@$(BIN)/skd-edge compress recipes/quickstart.yaml --out "$(OUT)"
	@echo "the report: $$(cd "$(OUT)" && pwd)/report.html"

test: $(TEST)
	@$(PYTEST)

test-fast: $(TEST)
	@$(PYTEST) -m "not slow"

# On a machine with an NVIDIA GPU: every runtime that uses it. Elsewhere it says that there is none.
test-gpu: $(TEST)
	@$(BIN)/python -m bench.suites.gpu_conformance

constraints:
	@rm -rf $(VENV)
	@$(MAKE) test NEWEST=1
	@$(BIN)/python constraints/freeze.py

# A stamp is newer than pyproject.toml once its install is whole; one that broke off is done again.
$(TRAIN): pyproject.toml $(wildcard constraints/*.txt) | $(BIN)/python
	@$(INSTALL) --editable '.[train]' || $(NOT_HERE)
	@touch $@

$(TEST): pyproject.toml $(wildcard constraints/*.txt) | $(BIN)/python
	@$(INSTALL) --editable '.[dev]' || $(NOT_HERE)
	@for extra in $(EXTRAS); do \
	  $(INSTALL) --editable ".[$$extra]" || echo "this machine does not take the extra $$extra; going on"; \
	done
	@$(INSTALL) --no-deps torchdistill || echo "no torchdistill here: its losses are not compared with ours"
	@touch $(TRAIN) $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is missing or older than 3.11; name another: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "$(PYTHON) cannot make a virtual environment (Debian: install python3-venv); or make .venv yourself" >&2; exit 1; }
