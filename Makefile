# Everything is one command here. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export UV_COMPILE_BYTECODE := 1
export UV_SYSTEM_CERTS := 1
export UV_PROJECT_ENVIRONMENT := .venv
unexport VIRTUAL_ENV PYTHONPATH PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
# Some Python of a version we run on: on PATH or under pyenv, wherever the default python3 points.
PYTHON = $(shell for p in python3.12 python3.13 python3 python \
	$$(ls -d $${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.1[23].*/bin/python 2>/dev/null); do \
	"$$p" -c 'import sys; sys.exit(not (3, 12) <= sys.version_info < (3, 14))' >/dev/null 2>&1 \
	&& { command -v "$$p"; break; }; done)
UV = $(or $(shell command -v uv),.uv/bin/uv)

.PHONY: help setup run test lab check sync lint lessons pytest export format text untext bench clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: .venv/.ready ## install the locked dependencies into .venv (every other target does it when needed)

.venv/.ready: pyproject.toml uv.lock
	@test -n "$(PYTHON)" || { echo "tradebot needs Python 3.12 or 3.13, on PATH or under pyenv; found neither."; exit 1; }
	@command -v uv >/dev/null || test -x .uv/bin/uv || { echo "Fetching uv into .uv ..."; \
	  "$(PYTHON)" -m venv .uv && .uv/bin/pip install --quiet --disable-pip-version-check uv; }
	@echo "Installing the locked dependencies into .venv (about a minute the first time) ..."
	@$(UV) sync --quiet --frozen --python "$(PYTHON)"
	@touch $@

run: setup ## pipeline, backtest, and three months of trading on the local paper broker (on the bundled sample by default)
	@$(BIN)/tradebot run nbs/pipelines/pipeline.ipynb
	@$(BIN)/tradebot run nbs/pipelines/backtest.ipynb
	@$(BIN)/tradebot broker --from 2012-11-30 -- $(BIN)/tradebot run nbs/pipelines/execute.ipynb -p sessions=70

test: check lessons pytest ## every check: sync of notebooks and package, lint, lessons, pytest

lab: setup ## JupyterLab with the project's kernel
	@$(BIN)/jupyter lab nbs

check: sync lint

sync: setup ## is the package exactly what the notebooks export, and are the notebooks clean?
	@$(BIN)/python tests/sync.py

lint: setup ## ruff on the package, notebooks, tests and benchmarks
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/ruff check --quiet --select F821 tradebot

lessons: setup ## run every notebook's cells
	@$(BIN)/nbdev-test --n-workers 2

pytest: setup ## contracts, properties, faults, parity, browser (the fault matrix waits more than it works: four at a time)
	@$(BIN)/python -m pytest -n 4 tests/execution
	@$(BIN)/python -m pytest -n 2 --dist loadfile --ignore tests/execution

export: setup ## notebooks -> package, notebooks cleaned and formatted
	@$(BIN)/ruff format --quiet nbs && $(BIN)/nbdev-export && $(BIN)/nbdev-clean

format: setup ## format notebooks, tests and benchmarks
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

text: setup ## NB=nbs/04_indicators.ipynb: write it as nbs/04_indicators.py, to edit as text
	@$(BIN)/jupytext --quiet --to py:percent "$(NB)"

untext: setup ## NB=nbs/04_indicators.ipynb: bring the edited text back into the notebook (cell ids and outputs stay)
	@$(BIN)/jupytext --quiet --update --to ipynb "$(NB:.ipynb=.py)" && rm "$(NB:.ipynb=.py)" && $(BIN)/nbdev-clean --fname "$(NB)"

bench: setup ## every benchmark, each printing its table
	@for b in benchmarks/bench_*.py; do $(BIN)/python $$b || exit 1; done

clean: ## remove what was installed and cached (data/ and reports/ stay)
	rm -rf .venv .uv .cache .ruff_cache .pytest_cache .hypothesis *.egg-info
