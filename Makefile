# `make demo` and `make test` each set everything up first, on a machine with Python 3.11 or newer and make.
# What is set up is remembered in the virtual environment and not done again.

PYTHON ?= python3
VENV ?= .venv
# torch is installed before everything else, so that nothing else chooses its build (README, "GPU or CPU").
TORCH ?= torch==2.13.0
TORCH_PIP_ARGS ?=
PYTEST_ARGS ?=

BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check
TORCH_STAMP := $(VENV)/.torch
RUNTIME_STAMP := $(VENV)/.runtime
DEV_STAMP := $(VENV)/.dev
TRAIN_STAMP := $(VENV)/.train
EVALUATE_STAMP := $(VENV)/.evaluate
FUZZ_STAMP := $(VENV)/.fuzz
# Of `make fuzz`, over all targets together.
FUZZ_MINUTES ?= 30
# The runs of `make evidence` are kept there, so that it goes on where it stopped.
EVIDENCE ?= $(HOME)/.cache/conceptloom/evaluation
EVIDENCE_METHODS := gt,fixed,paper,refined,refined-once,inversion,words

# Two test processes share the cores; more threads in each would only wait for one another.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

# A half-made virtual environment must not pass for a whole one at the next try.
.DELETE_ON_ERROR:

.PHONY: help demo test lint format slow fuzz sprites figures evidence

help:
	@echo "make demo     learn three concepts from two pictures and generate new pictures of them"
	@echo "make test     format, lint, types, layering, and the test suite"
	@echo "make lint     the same without the test suite"
	@echo "make format   format the code and mend what the linter can"
	@echo "make slow     the tests that take longer"
	@echo "make fuzz     feed everything that reads a file or text with broken ones, FUZZ_MINUTES=30 in all"
	@echo "make figures  draw the figures and pages of docs/evidence anew from its reports, in a minute"
	@echo "make evidence compute the whole reports: days of CPU time; it goes on where it stopped"
	@echo "make sprites  fetch and draw the artwork that the built-in model is trained on"

demo: $(RUNTIME_STAMP)
	$(BIN)/conceptloom demo

test: lint
	$(PYTEST) $(PYTEST_ARGS)

slow: $(DEV_STAMP)
	$(PYTEST) -m slow $(PYTEST_ARGS)

fuzz: $(FUZZ_STAMP)
	PYTHONPATH=tests $(BIN)/python tests/fuzz/harness.py --minutes $(FUZZ_MINUTES)

lint: $(DEV_STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV_STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

sprites: $(TRAIN_STAMP)
	$(BIN)/conceptloom basemodel sprites --ship-to src/conceptloom/data

figures: $(EVALUATE_STAMP)
	@ls docs/evidence/*/report.json > /dev/null 2>&1 || { echo "docs/evidence holds no report yet: make evidence writes one"; exit 1; }
	for report in docs/evidence/*/report.json; do \
		$(BIN)/conceptloom evaluate --redraw --out "$$(dirname "$$report")" || exit 1; \
	done

# Goes on from the runs that are kept beside the report; in float32, as they are. Fixed and paper first: they are there.
evidence: $(EVALUATE_STAMP)
	mkdir -p $(EVIDENCE) docs/evidence/builtin-dev
	for runs in docs/evidence/runs/*.tar.xz; do tar -C $(EVIDENCE) --skip-old-files -xJf "$$runs" || exit 1; done
	$(BIN)/conceptloom evaluate --split dev --methods fixed,paper --seeds 3 --dtype float32 --out $(EVIDENCE)/builtin-dev
	cp $(EVIDENCE)/builtin-dev/report.json docs/evidence/builtin-dev/
	$(BIN)/conceptloom evaluate --split dev --methods $(EVIDENCE_METHODS) --parts --dtype float32 --out $(EVIDENCE)/builtin-dev
	cp $(EVIDENCE)/builtin-dev/report.json docs/evidence/builtin-dev/
	test ! -f $(EVIDENCE)/builtin-dev/margins.json || cp $(EVIDENCE)/builtin-dev/margins.json src/conceptloom/data/judges/
	$(MAKE) figures

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make ... PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	@echo "Setting up $(VENV), once: torch, then the rest. This takes some minutes."
	$(PYTHON) -m venv $(VENV)

$(TORCH_STAMP): | $(VENV)/bin/python
	$(PIP_INSTALL) $(TORCH_PIP_ARGS) '$(TORCH)'
	@touch $@

$(RUNTIME_STAMP): pyproject.toml $(TORCH_STAMP)
	$(PIP_INSTALL) --quiet --editable .
	@touch $@

$(DEV_STAMP): pyproject.toml $(TORCH_STAMP)
	$(PIP_INSTALL) --quiet --editable '.[dev]'
	@touch $@ $(RUNTIME_STAMP)

$(TRAIN_STAMP): pyproject.toml $(TORCH_STAMP)
	$(PIP_INSTALL) --quiet --editable '.[train]'
	@touch $@ $(RUNTIME_STAMP)

$(EVALUATE_STAMP): pyproject.toml $(TORCH_STAMP)
	$(PIP_INSTALL) --quiet --editable '.[evaluate]'
	@touch $@ $(RUNTIME_STAMP)

$(FUZZ_STAMP): pyproject.toml $(TORCH_STAMP)
	$(PIP_INSTALL) --quiet --editable '.[fuzz]'
	@touch $@ $(RUNTIME_STAMP)
