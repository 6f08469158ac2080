# The two commands a newcomer needs are `make demo` and `make test`; both set everything up first.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest

.PHONY: help setup demo real test test-slow test-ci fuzz check format docs docs-notebooks clean

help:  ## what there is to call
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv (about 8 GB, 2 to 5 minutes the first time) ..."
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[demo,dev]'
	@$(BIN)/ctglip --version
	@touch $(READY)

setup: $(READY)  ## make .venv from the pinned constraints.txt

demo: setup  ## simulate, preprocess, pretrain, evaluate, ask; prints the path of one page and how to serve the model
	$(BIN)/ctglip demo demo-output

real: setup  ## the same path on real patients, from CTGLIP_REAL_DATA (default ../shared/data)
	$(BIN)/python -m experiments.real_patients --model demo-output/run --out real-output

test: setup  ## unit tests and one of each kind, under 8 minutes
	$(PYTEST) -n 2 --dist loadfile -m "not slow" --cov --cov-report=term:skip-covered

test-slow: setup  ## wheel install, browser, kill campaigns, learning
	$(PYTEST) -n 2 --dist loadfile -m slow

test-ci: setup  ## the slow tests that every change must pass
	$(PYTEST) -n 2 --dist loadfile -m ci

MINUTES ?= 60
fuzz: setup  ## read changed files of every kind for MINUTES (60) and count what goes wrong
	PYTHONPATH=. $(BIN)/python -m tests.fuzz.campaign --minutes $(MINUTES) --out fuzz-output

check: setup  ## formatting, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

format: setup  ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup  ## build the site into build/site, offline and strict
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-notebooks: setup  ## run the tutorials (ten minutes); the next `make docs` shows what they print
	$(BIN)/python docs/run_notebooks.py

clean:  ## remove what the demo made (not .venv)
	rm -rf demo-output real-output fuzz-output .pytest_cache .ruff_cache
