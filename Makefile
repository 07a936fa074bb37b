# Every target does its own set-up, from bare Python >= 3.11 with pip alone.
PYTHON ?= python3
PYTHONS ?= python3.11 python3.12 python3.13 python3.14
WORKERS ?= auto
VENV := .venv
RUN_LOCK := requirements.lock
DEV_LOCK := requirements-dev.lock

BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --quiet --disable-pip-version-check
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
# A lock names every package with its version and hashes. So nothing is resolved, and no source is built (which
# would bring build tools that no lock names): no release made after the lock can change or break an installation.
FROM_LOCK := --no-deps --only-binary :all: --require-hashes

MAKEFLAGS += --no-print-directory
.NOTPARALLEL:
.PHONY: help demo dev check test suite test-oldest litellm-part test-newest test-pythons test-by-litellm \
  soak bench sweep lock clean

help:
	@echo "make demo    the main job on the embedded provider: no key, no network"
	@echo "             (MODEL=gpt-4 make demo: the same on a model of config.toml that has a key)"
	@echo "make test    format, lint, types and tests; before them what touches litellm, on the oldest litellm"
	@echo "make check   format, lint and types alone"
	@echo "make suite   the tests alone"
	@echo "make test-oldest    what touches litellm, on the oldest litellm that is supported"
	@echo "make test-newest    the tests on the newest litellm that there is, whatever the lock says"
	@echo "make test-pythons   the tests on each Python from 3.11 to 3.14 that is on this machine"
	@echo "make test-by-litellm   the tests once more, with litellm sending and reading everything"
	@echo "make bench   what calls and chunks cost, beside litellm, the openai SDK and plain HTTP"
	@echo "make soak    the long runs: thousands of calls with random faults"
	@echo "make sweep   every chat model of litellm's registry, and what reaches litellm for it"
	@echo "make dev     the developer's set-up in .venv, without running anything"
	@echo "make lock    all locks anew from pyproject.toml, with the newest of everything"
	@echo "make clean   what these targets have made is removed"

# A new lock is a new environment: what an old one left behind could be in its way.
$(VENV)/.packages: $(RUN_LOCK)
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) install $(FROM_LOCK) -r $(RUN_LOCK)
	@touch $@

# The project itself goes in without build isolation: its build tools are in the lock too.
$(VENV)/.project: $(VENV)/.packages pyproject.toml
	$(PIP) install --no-deps --no-build-isolation --editable .
	@$(PIP) check
	@touch $@

$(VENV)/.dev: $(VENV)/.project $(DEV_LOCK)
	$(PIP) install $(FROM_LOCK) -r $(DEV_LOCK)
	@$(PIP) check
	@touch $@

demo: $(VENV)/.project
	@$(BIN)/python examples/demo.py

dev: $(VENV)/.dev

check: dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: check test-oldest suite

suite: dev
	$(PYTEST)

test-oldest:
	@$(MAKE) VENV=.venv-oldest RUN_LOCK=requirements-oldest.lock DEV_LOCK=requirements-oldest.lock litellm-part

litellm-part: dev
	$(PYTEST) -m "litellm and not soak"

# Of what the lock names, only what the newest litellm cannot do with is exchanged.
test-newest: VENV := .venv-newest
test-newest:
	@$(MAKE) VENV=$(VENV) dev
	$(PIP) install --upgrade --no-build-isolation --editable . litellm
	@$(PIP) check
	@$(BIN)/python -c 'from importlib.metadata import version as v; print("litellm", v("litellm"), "openai", v("openai"))'
	$(PYTEST)

test-pythons:
	@for python in $(PYTHONS); do \
	  name=$$($$python -c 'import ensurepip, sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) \
	    || { absent="$$absent $$python"; continue; }; \
	  echo "== $$python is $$name"; \
	  if $(MAKE) PYTHON=$$python VENV=.venv-$${name%.*} suite; then passed="$$passed $$name"; else failed="$$failed $$name"; fi; \
	done; \
	echo "== passed on:$${passed:- none}; failed on:$${failed:- none}; not on this machine:$${absent:- none}"; \
	test -n "$$passed" -a -z "$$failed"

# The same tests by the litellm door (README, "Speed"): the outcome has to be the same.
test-by-litellm: dev
	AGENTLESS_DIRECT=0 $(PYTEST)

soak: dev
	$(BIN)/python -m pytest -m soak -n $(WORKERS)

bench: dev
	$(BIN)/python benchmarks/bench.py

sweep: dev
	$(BIN)/python benchmarks/sweep.py
	$(BIN)/python benchmarks/doors.py

# For every platform and every supported Python, with no index addresses: where packages come from is the
# installer's business. The two other locks begin as copies of the first: they take its versions where they can.
COMPILE = .venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
  --custom-compile-command "make lock" --group build pyproject.toml
lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check 'uv==0.13.9'
	$(COMPILE) --upgrade --extra test --extra lint --output-file requirements-dev.lock
	cp requirements-dev.lock requirements.lock
	$(COMPILE) --output-file requirements.lock
	cp requirements-dev.lock requirements-oldest.lock
	$(COMPILE) --extra test --group oldest --output-file requirements-oldest.lock

clean:
	rm -rf .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
