# All tasks for people and CI. Each target creates the virtual environment it needs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
NEXT   := .venv-next
# Arize's own clients: one environment each, because their versions exclude each other.
CLIENTS := .venv-clients
PIP    := -m pip --disable-pip-version-check --quiet install --require-hashes
# Arguments for pytest in `make test`, for example ARGS="-k cancel" or ARGS=tests/cancellations/test_cancel.py
ARGS   ?=
# Files named in ARGS; without any, all tests run. A selection starts faster on one processor.
NAMED  := $(filter tests/%,$(ARGS))
UNIT   := $(if $(NAMED),$(filter-out tests/e2e%,$(NAMED)),--ignore=tests/e2e)
E2E    := $(if $(NAMED),$(filter tests/e2e%,$(NAMED)),tests/e2e)
# One process more than there are processors: some tests wait for threads, processes or the disk.
SPREAD := -n $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1) --dist worksteal
HOW    := $(or $(filter-out tests/%,$(ARGS)),$(if $(NAMED),,$(SPREAD)))
# Each worker of the browser tests starts the whole panel, so there are only two.
E2E_HOW := $(or $(filter-out tests/%,$(ARGS)),$(if $(NAMED),,-n 2 --dist loadfile))
E2E_LOG := $(VENV)/browser-tests.log
# Without compiled files, each of the hundreds of processes that tests start would compile the panel anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo run test test-unit test-e2e test-fast test-database test-next test-clients lint format lock audit bench chaos drills release screenshots
.DEFAULT_GOAL := help

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | while IFS="$$(printf '\t')" read -r name text; do printf '  make %-14s %s\n' "$$name" "$$text"; done

demo: $(VENV)/run.stamp ## run the demo: the panel with a simulated Arize, until Ctrl-C
	@$(BIN)/python -m config.demo

run: $(VENV)/run.stamp ## run the panel configured in .env, until Ctrl-C
	@$(BIN)/python -m config.run

# Exit code 5 means "no tests selected", which is not a failure if ARGS selects.
pytest = $(BIN)/python -m pytest $(1) || [ $$? -eq 5 -a -n '$(ARGS)' ]

# Side by side, because browser tests mostly wait. Two calls, because a running Playwright breaks every later test that
# uses the database.
test: $(VENV)/dev.stamp ## run all tests, on SQLite or on the database in DATABASE_URL
	@$(MAKE) --no-print-directory $(if $(ARGS),,-j2) test-unit test-e2e

test-unit: $(VENV)/dev.stamp
	@$(if $(UNIT),$(call pytest,$(UNIT) $(HOW)))

# Without ARGS both run at once: the output of the browser tests is printed when they are done.
test-e2e: $(VENV)/dev.stamp
	@$(if $(E2E),$(if $(ARGS),,exec 3>&1 >$(E2E_LOG) 2>&1; trap 'cat $(E2E_LOG) >&3' EXIT;) $(call pytest,$(E2E) $(E2E_HOW)))

test-fast: $(VENV)/dev.stamp ## run the fast tests: no browser, no processes, no exhaustive tests
	@$(BIN)/python -m pytest --ignore=tests/e2e -m 'not slow' $(SPREAD)

test-database: $(VENV)/dev.stamp ## run the tests that use the database in DATABASE_URL, without browser tests
	@$(BIN)/python -m pytest --ignore=tests/e2e -m 'database and not once' $(SPREAD)

test-next: $(NEXT)/dev.stamp ## run the tests on a newer Python with the next Django
	@$(NEXT)/bin/python -c 'import sys, django; print(f"Python {sys.version.split()[0]}, Django {django.__version__}")'
	@$(NEXT)/bin/python -m pytest --ignore=tests/e2e $(or $(ARGS),$(SPREAD))

test-clients: $(VENV)/dev.stamp $(CLIENTS)/node.stamp $(CLIENTS)/sdk.stamp $(CLIENTS)/airflow.stamp ## run Arize's own clients against the panel (needs Node.js)
	@$(BIN)/python -m pytest $(or $(ARGS),tests/real_clients -n 2 --dist loadfile)

lint: $(VENV)/dev.stamp ## check style, types, import rules, templates and migrations
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@find templates -name '*.html' -exec $(BIN)/djade --check {} +
	@$(BIN)/python manage.py makemigrations --check --dry-run --settings=tests.settings
	@$(BIN)/python manage.py check --settings=tests.settings

format: $(VENV)/dev.stamp ## format code and templates
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .
	@find templates -name '*.html' -exec $(BIN)/djade {} +

LOCKED := --universal --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11
lock: $(VENV)/dev.stamp ## update the requirements files from pyproject.toml and tests/real_clients/
	@$(BIN)/uv pip compile --quiet $(LOCKED) pyproject.toml -o requirements.txt
	@$(BIN)/uv pip compile --quiet $(LOCKED) --group dev -c requirements.txt pyproject.toml -o requirements-dev.txt
	@for name in sdk airflow; do $(BIN)/uv pip compile --quiet $(filter-out --generate-hashes,$(LOCKED)) \
	  tests/real_clients/requirements-$$name.in -o tests/real_clients/requirements-$$name.txt || exit 1; done

audit: $(VENV)/dev.stamp ## check the locked packages for known vulnerabilities
	@$(BIN)/pip-audit --require-hashes --disable-pip --strict --progress-spinner off -r requirements.txt

bench: $(VENV)/dev.stamp ## run the benchmarks on this machine
	@$(BIN)/python -m tests.bench

chaos: $(VENV)/dev.stamp ## kill and disturb the real processes (CHAOS_MINUTES), check every promise
	@$(BIN)/python -m tests.chaos

drills: $(VENV)/dev.stamp ## rehearse what operators do: install, back up, move, rotate, restart (DRILLS="NAME ...")
	@$(BIN)/python -m tests.drills $(DRILLS)

release: $(VENV)/run.stamp ## set the version (VERSION=1.2.3) and date the changelog; prints how to tag
	@$(BIN)/python -m config.release $(VERSION)

screenshots: $(VENV)/dev.stamp ## retake the README's screenshots (needs Chromium)
	@$(BIN)/python -m tests.e2e.screenshots

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Taskruns needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Choose another one: make demo PYTHON=python3.11"; exit 1; }
	@echo "Creating $(VENV) ..."
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "$(PYTHON) cannot create virtual environments. On Debian and Ubuntu, run: apt-get install python3-venv"; rm -rf $(VENV); exit 1; }

$(VENV)/run.stamp: requirements.txt | $(BIN)/python
	@echo "Installing the panel's packages into $(VENV) ..."
	@$(BIN)/python $(PIP) -r requirements.txt
	@touch $@

$(VENV)/dev.stamp: requirements-dev.txt | $(BIN)/python
	@echo "Installing the test packages into $(VENV) ..."
	@$(BIN)/python $(PIP) -r requirements-dev.txt
	@touch $@

$(NEXT)/dev.stamp: requirements-dev.txt
	@newer="$$(tests/newer_python.sh)" && { [ -x $(NEXT)/bin/python ] || "$$newer" -m venv $(NEXT); }
	@echo "Installing the test packages into $(NEXT) ..."
	@$(NEXT)/bin/python $(PIP) -r requirements-dev.txt
	@touch $@

$(CLIENTS)/%.stamp: tests/real_clients/requirements-%.txt | $(BIN)/python
	@echo "Installing Arize's clients into $(CLIENTS)/$* ..."
	@[ -x $(CLIENTS)/$*/bin/python ] || $(BIN)/python -m venv $(CLIENTS)/$*
	@$(CLIENTS)/$*/bin/python -m pip --disable-pip-version-check --quiet install -r $<
	@touch $@

$(CLIENTS)/node.stamp: tests/real_clients/package.json tests/real_clients/package-lock.json
	@node -e 'process.exit(Number(process.versions.node.split(".")[0] < 18))' 2>/dev/null && command -v npm >/dev/null || { \
	  echo "The JavaScript client needs Node.js 18 or newer, and npm. On Debian and Ubuntu, run: apt-get install nodejs npm"; exit 1; }
	@echo "Installing Arize's JavaScript client into $(CLIENTS)/node ..."
	@mkdir -p $(CLIENTS)/node && cp $^ $(CLIENTS)/node/
	@cd $(CLIENTS)/node && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@
