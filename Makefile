# Every target sets up what it needs: `make quickstart` and `make test` are enough on a
# machine with Python 3.11 or later.

PYTHON ?= python3
BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	--constraint .ci/constraints.txt
WORKDIR ?= runs/quickstart
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist worksteal

.PHONY: quickstart test test-all lint format fuzz docs readme bench clean

# The report that the README shows: three objectives on an embedded corpus.
quickstart: .venv
	$(BIN)/python -m research.compare --config=quickstart --workdir=$(WORKDIR)

# What a person runs before a commit: at most 5 minutes on 2 cores.
test: .venv/dev
	$(PYTEST) -m "not slow"

# Everything: every mesh, tree mode, kills, parity with torch. At most 40 minutes.
test-all: .venv/dev .venv/peers
	$(PYTEST)
	NNX_GRAPH_MODE=false NNX_GRAPH_UPDATES=false $(PYTEST) -m "not slow" \
		tests/models tests/objectives

# Random bad input to the real commands, two minutes of it; a person may take hours.
SECONDS ?= 120
SEED ?= 0
INPUTS ?= 1000000
fuzz: .venv/dev
	$(BIN)/python -m tests.fuzz --seconds=$(SECONDS) --inputs=$(INPUTS) --seed=$(SEED)

lint: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The site in build/site. The tutorial is executed; a warning or a broken link fails.
docs: .venv/docs
	mkdir -p build
	$(BIN)/jupytext --to notebook --output build/tutorial.ipynb docs/tutorial.py
	$(BIN)/jupyter nbconvert --log-level=ERROR --execute --to markdown \
		--output-dir docs --output tutorial.md build/tutorial.ipynb
	NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build

# The README's commands in order, shrunk, in a fresh folder outside of the clone.
readme: .venv/dev
	$(BIN)/python -m tests.readme

bench: .venv/dev .venv/peers
	$(BIN)/python -m research.benchmark --suite=cpu

.venv: .venv/base

.venv/base: pyproject.toml .ci/constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP_INSTALL) --editable .
	touch $@

.venv/dev: .venv/base
	$(PIP_INSTALL) --editable ".[dev]"
	touch $@

.venv/docs: .venv/base
	$(PIP_INSTALL) --editable ".[docs]"
	touch $@

.venv/peers: .venv/base
	$(PIP_INSTALL) --editable ".[peers]"
	touch $@

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .mypy_cache
