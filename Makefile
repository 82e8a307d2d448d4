# Everything a developer or a build does. `make` alone lists it.

PYTHON ?= python3
VENV   ?= .venv
# Where `up` and `down` keep the stack's state, and what else is handed to the tests.
DIR    ?= .bulkhead
TESTS  ?=
# Which walls `leaks` takes away, and whether it runs more than the tests that are to notice.
ONLY   ?=
ALL    ?=

BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed
export PATH := $(abspath $(BIN)):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup up down status test check leaks battery lint fmt proto bench lock clean
# What a target needs is prepared first, in the order that is written.
.NOTPARALLEL:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with exactly the locked packages

$(STAMP): requirements.lock pyproject.toml deploy/make_venv.py
	@$(PYTHON) deploy/make_venv.py $(VENV)
	@touch $@

up: setup ## start the embedded stack in DIR (.bulkhead), with two demo tenants; Ctrl-C stops it
	@bulkhead --dir $(DIR) up --demo

down: setup ## stop it from elsewhere
	@bulkhead --dir $(DIR) down

status: setup ## show how it is
	@bulkhead --dir $(DIR) status

# Of the walls a sixth, by the commit's turn: all of them are tried within some commits, or by `make leaks`.
test: ONE_IN = 6
test: setup lint check leaks ## lint, then all tests, then what the tests are worth: what CI runs

# Whole stacks have the machine for themselves: some of what they are asked is to be answered soon.
check: setup ## the tests alone; TESTS='-k name' or a path narrows them
	@echo '· pytest'
ifeq ($(TESTS),)
	@pytest -n 2 --dist loadfile $(filter-out tests/conftest.py tests/e2e tests/fixtures tests/leaks,$(wildcard tests/*[a-z]))
	@pytest tests/e2e
else
	@pytest $(TESTS)
endif

leaks: setup ## take each wall away in turn: a test has to notice; ONLY='words' of its name, ALL=1 runs whole folders
	@echo '· leaks'
	@python -m tests.leaks.run --json $(if $(ONLY),--only "$(ONLY)") $(if $(ALL),--all) $(if $(ONE_IN),--one-in $(ONE_IN))

battery: setup ## attacks and trials at scale, as many as the specification demands; SEED=n draws the same ones again
	@BATTERY=1 pytest tests/e2e/edge tests/e2e/edge_scale tests/isolation/test_database_crowd.py \
	    tests/integration/ext_authz/leases tests/integration/keys/pkcs11 $(TESTS)

lint: setup ## every static check
	@mkdir -p build
	@echo '· ruff';             ruff check --quiet && ruff format --check --quiet
	@echo '· mypy';             mypy --no-error-summary
	@echo '· imports';          lint-imports --no-logo > build/imports.log || { cat build/imports.log; exit 1; }
	@echo '· dependencies';     deptry . 2> build/deptry.log || { cat build/deptry.log; exit 1; }
	@echo '· generated code';   python proto/generate.py --into build/gen && diff -r build/gen/bulkhead proto/gen/bulkhead || { echo 'proto/gen is not what proto/ says: run `make proto`'; exit 1; }
	@echo '· protocol buffers'; buf lint proto && buf format --diff --exit-code proto
	@echo '· spelling';         codespell
	@echo '· dead code';        vulture

fmt: setup ## format the sources
	@ruff check --fix --quiet || true
	@ruff format
	@buf format --write proto

proto: setup ## generate proto/gen from proto/
	@python proto/generate.py

bench: setup ## measure; prints a table and writes build/bench.json
	@python -m tests.bench.run

lock: setup ## resolve the dependencies anew into requirements.lock
	@uv pip compile -q --generate-hashes --no-header --universal --python-version 3.11 \
	    pyproject.toml --group dev -o requirements.lock

clean: ## remove what was built, .venv included; state directories stay
	@rm -rf build dist $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
