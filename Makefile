# Everything there is to learn: serve, test, bench, bench-peers, profile, lint, types, format, audit, requirements.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TEST_WORKERS ?= 5
NODE_CLIENTS := tests/clients
NODE_PACKAGES := $(NODE_CLIENTS)/node_modules/installed

.PHONY: serve test bench bench-peers profile lint types format audit requirements

serve: $(VENV)/installed
	@exec $(BIN)/python manage.py serve

# REQUIRE_ALL=1 fails where an optional part (Postgres, Redis, nginx, Chromium, Node) is missing.
test: $(VENV)/installed-dev $(NODE_PACKAGES)
	REQUIRE_ALL=$(REQUIRE_ALL) $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

bench: $(VENV)/installed-dev
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

# Installs other gateways into BENCH_PEERS_DIR, by default in the user's cache directory.
bench-peers: $(VENV)/installed-dev
	$(BIN)/python -m benchmarks --peers $(BENCH_ARGS)

profile: $(VENV)/installed-dev
	$(BIN)/python -m benchmarks.stages $(PROFILE_ARGS)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/python manage.py makemigrations --check --dry-run

types: $(VENV)/installed-dev
	$(BIN)/mypy

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Known weaknesses of what is pinned; says so and passes where no advisory database can be reached.
audit: $(VENV)/installed-dev
	@.ci/audit

requirements: $(VENV)/installed-dev
	$(BIN)/uv pip compile -q --universal --generate-hashes --python-version 3.11 --no-header requirements-uv.in -o requirements-uv.txt
	$(BIN)/uv pip compile -q --universal --generate-hashes --python-version 3.11 --no-header requirements.in -o requirements.txt
	$(BIN)/uv pip compile -q --universal --generate-hashes --python-version 3.11 --no-header requirements-dev.in -o requirements-dev.txt

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "Python 3.11 to 3.13 is needed: make PYTHON=python3.12 ...")'
	@$(PYTHON) -m venv $(VENV)

# `PIP_` variables and pip's files count: install.py hands them to uv.
$(VENV)/installed: requirements.txt requirements-uv.txt | $(VENV)/bin/python
	@echo "Installing into $(VENV)/"
	@$(BIN)/python install.py requirements.txt
	@touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	@$(BIN)/python install.py requirements-dev.txt
	@touch $@

# Without npm or a registry, tests/optional.py leaves Node's tests out and the last lines say so.
$(NODE_PACKAGES): $(NODE_CLIENTS)/package.json $(NODE_CLIENTS)/package-lock.json
	@if command -v npm >/dev/null; then \
		(cd $(NODE_CLIENTS) && npm ci --loglevel=error >/dev/null) && touch $@ || echo "npm ci failed in $(NODE_CLIENTS)." >&2; \
	fi
