# make setup | test | test-slow | check | demo | bench | clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup test test-slow check demo bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml setup.py constraints.txt openmimo/judge/sandbox/_spawn.c openmimo/engine/_kernels.c
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"openmimo needs Python 3.11 or newer, this is {sys.version.split()[0]}"'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

demo: setup
	$(BIN)/openmimo run tiny

test: setup
	$(BIN)/python -m pytest tests --numprocesses 2 --dist loadfile

test-slow: setup
	$(BIN)/python -m pytest tests -m slow

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	for file in benchmarks/*.py; do $(BIN)/python $$file || exit 1; done

clean:
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .pytest_cache
