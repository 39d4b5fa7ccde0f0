# One command each; `make` alone lists them.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
FEAST := $(VENV)/feast
TRITON := $(VENV)/triton
TENSORFLOW := $(VENV)/tensorflow
UV_VERSION := 0.13.8

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench bench-gpu fuzz lock clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## install everything that the other commands need into .venv

$(STAMP): requirements/dev.lock requirements/feast.lock requirements/triton.lock requirements/tensorflow.lock pyproject.toml
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	    { echo "$(PYTHON) or its venv module is missing: apt-get install python3.11 python3.11-venv" >&2; exit 1; }
	@echo "installing into $(VENV), once: about 3.9 GB to download, 9 GB on disk"
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --compile-bytecode -r requirements/dev.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@# Feast needs NumPy 2, which the rest refuses: its server has an environment of its own, for one example and its test.
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(FEAST)
	$(BIN)/uv pip install --quiet --python $(FEAST)/bin/python --require-hashes -r requirements/feast.lock
	@# Triton's client holds protobuf back: the tests that call it run it from here.
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(TRITON)
	$(BIN)/uv pip install --quiet --python $(TRITON)/bin/python --require-hashes -r requirements/triton.lock
	@# alibi-detect imports TensorFlow wherever it finds it: only the runtime's tests are shown where it is.
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(TENSORFLOW)
	$(BIN)/uv pip install --quiet --python $(TENSORFLOW)/bin/python --require-hashes -r requirements/tensorflow.lock
	@touch $(STAMP)

demo: $(STAMP) ## serve a real model, replay three years of real data, watch the alerts
	$(BIN)/python examples/employment/demo.py

test: $(STAMP) ## run the whole test suite, real Kafka included
	$(BIN)/pytest -n 2 --dist loadfile
	PYTHONPATH=$(abspath $(TENSORFLOW))/lib/python3.11/site-packages $(BIN)/pytest -k tensorflow \
	    tests/inference/runtimes/test_tensorflow.py tests/contracts/test_runtimes.py

check: $(STAMP) ## lint, format, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP) ## measure against the named baselines and print the tables
	for script in benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

bench-gpu: $(STAMP) ## measure PyTorch models on a CUDA device, and write docs/gpu.md
	$(BIN)/python benchmarks/bench_gpu.py --cuda-graphs --write docs/gpu.md

fuzz: $(STAMP) ## draw streams of bytes for the logger's proxy and the predictor's gRPC, ten minutes for each promise
	$(BIN)/python -m tests.logger.fuzz --seconds 600

lock: ## resolve what is in requirements/ anew, from pyproject.toml
	$(BIN)/uv pip compile --quiet --extra dev --python-version 3.11 --generate-hashes \
	    --no-annotate --no-header --no-emit-index-url pyproject.toml --output-file requirements/dev.lock
	$(BIN)/uv pip compile --quiet --group feast --python-version 3.11 --generate-hashes \
	    --no-annotate --no-header --no-emit-index-url --output-file requirements/feast.lock
	$(BIN)/uv pip compile --quiet --group triton --python-version 3.11 --generate-hashes \
	    --no-annotate --no-header --no-emit-index-url --output-file requirements/triton.lock
	$(BIN)/uv pip compile --quiet --extra tensorflow --python-version 3.11 --generate-hashes \
	    --no-annotate --no-header --no-emit-index-url --constraint requirements/dev.lock \
	    pyproject.toml --output-file requirements/tensorflow.lock

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
