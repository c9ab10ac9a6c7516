# `make help` lists the targets. Variables can be overridden: make train PYTHON=python3.12 ARGS="freeze=backbone"
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
# Test files are shared out among this many processes, each with one thread; in their own order, as those with few tests
# take longest and would come last.
JOBS ?= 2
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install format lint type test test-all check train docs docs-site benchmark constraints wheel clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## set up $(VENV) with everything pinned; a second call does nothing

# uv compiles the bytecode: without it each start of torch and Lightning costs seconds more.
$(INSTALLED): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "frostline needs Python 3.10 or newer")'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode -c constraints.txt --group dev -e .
	@touch $@

train: $(INSTALLED) ## train on handwritten digits: no download, no GPU, a few minutes (ARGS="key=value …")
	$(BIN)/python train.py $(ARGS)

test: $(INSTALLED) ## run the tests (ARGS="-k name")
	$(BIN)/pytest -n $(JOBS) --dist loadscope --no-loadscope-reorder $(ARGS)

test-all: $(INSTALLED) ## run the slow, cluster and browser tests as well
	$(BIN)/pytest -n $(JOBS) --dist loadscope --no-loadscope-reorder -m "not gpu" $(ARGS)

format: $(INSTALLED) ## format, and apply lint fixes
	$(BIN)/ruff check --fix src tests scripts train.py
	$(BIN)/ruff format src tests scripts train.py

lint: $(INSTALLED) ## lint and check the format
	$(BIN)/ruff check src tests scripts train.py
	$(BIN)/ruff format --check src tests scripts train.py

type: $(INSTALLED) ## check the types of src
	$(BIN)/mypy

check: lint type test ## lint, types, tests

docs: $(INSTALLED) ## write the generated parts of docs/
	$(BIN)/python scripts/write_docs.py
	$(BIN)/python scripts/publish_tour.py

docs-site: $(INSTALLED) ## build the docs site into site/; a broken link is an error
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt --group docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# Peers live in .venv-benchmark, images and results in .benchmark; an interrupted benchmark continues where it stopped.
benchmark: $(INSTALLED) ## frostline against its peers, hours (ARGS="--train-images 320 --val-images 80"); BENCHMARKS.md
	$(BIN)/python -m scripts.benchmark.contest --set-up --fast-peers $(ARGS)

constraints: $(INSTALLED) ## pin the newest versions that fit, for every supported Python
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --no-header --no-annotate --upgrade \
	  --group dev --group docs pyproject.toml -o constraints.txt
	$(BIN)/uv --version | awk '{print "uv==" $$2}' >> constraints.txt

wheel: $(INSTALLED) ## build the wheel into dist/
	$(BIN)/python -m build --wheel --installer uv --outdir dist .

clean: ## remove what was built; not the runs
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache src/*.egg-info
