# Two commands do everything: `make demo` and `make test`. Each installs what it needs first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Where torch comes from, when not from PyPI. On x86-64 PyPI's is the CUDA build, 3 GB with its libraries; without a GPU
# TORCH_INDEX=https://download.pytorch.org/whl/cpu saves them.
TORCH := torch==2.13.0
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo up test quick check lock clean

$(VENV)/runtime.done: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, this is " + sys.version)'
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(PIP) install --no-deps --require-hashes -r requirements.lock
	$(PIP) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(PIP) install --no-deps --editable .
	touch $@

$(VENV)/dev.done: $(VENV)/runtime.done requirements-dev.lock
	$(PIP) install --no-deps --require-hashes -r requirements-dev.lock
	touch $@

demo: $(VENV)/runtime.done  ## the whole loop on real digits (or DATA=my.zip), in the terminal
	$(BIN)/netwright demo $(if $(DATA),--data "$(DATA)")

up: $(VENV)/runtime.done  ## the service, on 127.0.0.1:8000, until Ctrl-C
	$(BIN)/netwright up

test: $(VENV)/dev.done check  ## everything, on a real Postgres and Valkey that the tests start and stop
	$(BIN)/python -m pytest

quick: $(VENV)/dev.done  ## the fast subset, under two minutes
	$(BIN)/python -m pytest -m "not slow"

check: $(VENV)/dev.done  ## format, lint, types, layers, migrations
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_migrations.py

lock:  ## resolve the pinned versions anew
	$(PYTHON) -m venv $(VENV)-lock && $(VENV)-lock/bin/pip --quiet install uv
	for extra in "--extra demo -o requirements.lock" "--all-extras -c requirements.lock -o requirements-dev.lock"; do \
	  $(VENV)-lock/bin/uv pip compile pyproject.toml --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes \
	    --no-header --no-annotate --no-emit-index-url --no-emit-package torch $$extra >/dev/null || exit 1; \
	done
	rm -rf $(VENV)-lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
