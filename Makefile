# Every target does its own set-up, from bare Python >= 3.11 with pip alone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= auto

.PHONY: help demo test test-without-shortcuts check bench sweep soak lock clean

help:
	@echo "make demo    the main job on the embedded provider: no key, no network"
	@echo "             (MODEL=gpt-4 make demo: the same on a model of config.toml that has a key)"
	@echo "make test    format, lint, types and tests"
	@echo "make test-without-shortcuts   the tests once more, with litellm doing everything"
	@echo "make check   format, lint and types alone"
	@echo "make bench   what calls and chunks cost, beside litellm, the openai SDK and plain HTTP"
	@echo "make soak    the long runs: thousands of calls with random faults"
	@echo "make sweep   every chat model of litellm's registry, and what reaches litellm for it"
	@echo "make lock    requirements.lock anew from pyproject.toml"

# The project itself goes in without build isolation: its build tools are in the lock too.
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(READY)
	@$(BIN)/python examples/demo.py

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: check
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# The same tests with litellm doing everything (README, "Speed"): the outcome has to be the same.
test-without-shortcuts: $(READY)
	AGENTLESS_SHORTCUTS=0 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

soak: $(READY)
	$(BIN)/python -m pytest -m soak -n $(WORKERS)

bench: $(READY)
	$(BIN)/python benchmarks/bench.py

sweep: $(READY)
	$(BIN)/python benchmarks/sweep.py

# Hashes for every platform, and no index addresses: where packages come from is the installer's business.
lock:
	$(PYTHON) -m venv $(VENV)/lock
	$(VENV)/lock/bin/python -m pip install --quiet --disable-pip-version-check 'pip-tools==7.6.2'
	$(VENV)/lock/bin/pip-compile --quiet --upgrade --extra test --build-deps-for editable --generate-hashes \
	  --allow-unsafe --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	  --no-emit-options --no-header --output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
