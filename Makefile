# Everything a newcomer needs; `make` alone lists it. Only `setup`, `lock`, `fuzz` and `bench` use the network.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# All paths are relative, so that the folder of the repository may have any name.
RUN = .venv/bin/python -m
INSTALLED = .venv/installed
TEST_OPTIONS ?=
# As many tests at once as there are cores, each process with a PostgreSQL of its own.
TEST_PROCESSES ?= auto
TARGET ?=
BENCH ?=
SECONDS ?= 60
SEEDS ?= 100

.PHONY: help setup check test demo bench fuzz faults samples schemas lock clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' Makefile

setup: $(INSTALLED) ## make .venv with everything of requirements.lock (again only after a change)

check: $(INSTALLED) ## format, lint, types and layers
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy
	.venv/bin/lint-imports --no-logo

test: $(INSTALLED) ## all tests, on a PostgreSQL of their own (TEST_OPTIONS='-k intake')
	$(RUN) pytest --numprocesses $(TEST_PROCESSES) --maxprocesses 8 --dist loadfile $(TEST_OPTIONS)

demo: $(INSTALLED) ## the whole system on this machine, with synthetic people, until Ctrl-C
	$(RUN) asm_daemon demo

bench: $(INSTALLED) ## what this machine can take, beside what its parts and others can take (BENCH=sync for a part)
	$(RUN) pip install --quiet --no-deps --require-hashes --only-binary :all: -r tests/bench/requirements.txt \
		|| echo "pgqueuer and procrastinate cannot be installed here: the sync is measured without them beside it"
	$(RUN) tests.bench $(BENCH)

fuzz: $(INSTALLED) ## bad input for every parser, guided by coverage (SECONDS=60 for each, TARGET=hl7_adt)
	$(RUN) pip install --quiet --require-hashes --only-binary :all: -r tests/fuzz/requirements.txt \
		|| echo "atheris has no wheel for this machine: inputs are damaged at random instead of following the coverage"
	$(RUN) tests.fuzz --seconds $(SECONDS) $(addprefix --target ,$(TARGET))

faults: $(INSTALLED) ## break a whole system on purpose and look for what was lost (SEEDS=100): docs/reliability.md
	$(RUN) tests.faults --seeds $(SEEDS)

samples: $(INSTALLED) ## what every reader makes of sound, wrong and hostile documents, as a table
	$(RUN) tests.samples_table

schemas: $(INSTALLED) ## write schemas/generated anew: the JSON Schemas and the OpenAPI document
	$(RUN) schemas.generate
	$(RUN) asm_daemon.web.contract

lock: $(INSTALLED) ## resolve the dependencies of setup.cfg anew into requirements.lock
	$(RUN) pip install --quiet uv
	$(RUN) uv pip compile setup.cfg --quiet --upgrade --all-extras --universal --python-version 3.11 \
		--generate-hashes --custom-compile-command 'make lock' --output-file requirements.lock

clean: ## remove what setup, tests and the demo made
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .fuzz .faults *.egg-info
	# The data of a demo that root ran below a closed folder lie in /var/lib (asm_daemon/embedded.py).
	find .demo -type l -name cluster -lname '/var/lib/asm-demo-*' -printf '%l\0' 2>/dev/null | xargs -0r dirname -z | xargs -0r rm -rf || true
	rm -rf .demo

.venv/bin/python:
	.ci/make-venv .venv

$(INSTALLED): .venv/bin/python requirements.lock setup.cfg pyproject.toml
	$(RUN) pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements.lock
	$(RUN) pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(INSTALLED)
