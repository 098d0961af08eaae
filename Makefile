# Everything a developer or a newcomer types. `make` alone lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := .venv-peers

.DEFAULT_GOAL := help
.PHONY: help demo test lint types imports unit test-trl-matrix bench bench-llds bench-peers samples screenshot clean

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY) ## train a tiny policy that really collapses, with the live dashboard; ARGS="--scenario healthy"
	@$(BIN)/lldwatch demo $(ARGS)

test: lint types imports unit ## everything that CI runs

lint: $(READY) ## style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(READY) ## static types
	@$(BIN)/mypy

imports: $(READY) ## who may import whom
	@$(BIN)/lint-imports

unit: $(READY) ## the tests; ARGS="-k recorder" chooses
	@$(BIN)/pytest $(ARGS)

test-trl-matrix: $(READY) ## the tests of the TRL integration with seven versions of it (20 minutes); prints the table
	@$(BIN)/python tests/integrations/trl_matrix.py $(ARGS)

bench: $(READY) ## the tables of the README (about 50 minutes on two cores)
	@runs=$$(mktemp -d) && $(BIN)/python benchmarks/miniature.py --out $$runs $(ARGS) && \
		$(BIN)/python benchmarks/detector.py --miniature $$runs
	@$(BIN)/python benchmarks/estimators.py
	@$(BIN)/python benchmarks/overhead.py
	@$(BIN)/python benchmarks/recorder.py
	@$(BIN)/python benchmarks/logits.py
	@$(BIN)/python benchmarks/llds_overhead.py

bench-llds: $(READY) ## does LLDS keep the miniature alive (8 hours; ARGS="--seeds 0 1 2 --arms vanilla auto-both-4" chooses)
	@$(BIN)/python benchmarks/llds.py --out runs/llds $(ARGS)

bench-peers: $(PEERS)/.ready ## recorder and detector, beside what one would use otherwise (20 minutes; installs it, 1.2 GB)
	@$(PEERS)/bin/python benchmarks/recorder.py $(ARGS)
	@$(PEERS)/bin/python benchmarks/detector.py

samples: $(READY) ## record sample_logs/ again
	@rm -rf sample_logs/healthy sample_logs/collapse sample_logs/collapse-with-llds
	@$(BIN)/lldwatch demo --no-dashboard --scenario healthy --seed 0 --out sample_logs/healthy
	@$(BIN)/lldwatch demo --no-dashboard --scenario collapse --seed 0 --out sample_logs/collapse
	@$(BIN)/lldwatch demo --no-dashboard --scenario auto --seed 0 --out sample_logs/collapse-with-llds

screenshot: $(READY) ## take the README's picture again (needs chromium)
	@$(BIN)/python dashboard/screenshot.py

clean: ## remove what was installed and built
	rm -rf $(VENV) $(PEERS) build dist *.egg-info

# torch first and alone: whatever depends on it would otherwise fetch its newest release, with gigabytes of GPU packages
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, $(PYTHON) is older: make PYTHON=python3.12" >&2; exit 2; }
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (once, a few minutes) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r constraints.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# an environment of their own: they bring some 130 packages, and hold others back
$(PEERS)/.ready: pyproject.toml benchmarks/peers.txt
	@test -d $(PEERS) || $(PYTHON) -m venv $(PEERS)
	@echo "Installing into $(PEERS) (once, a few minutes) ..."
	@$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/peers.txt -e .
	@touch $@
