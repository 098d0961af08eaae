# Everything a developer or a newcomer types. `make` alone lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := .venv-peers
LOWEST := tests/dashboard/test_figures.py tests/dashboard/test_app.py tests/importers/test_parquet_table.py \
	tests/importers/test_trl_completions.py $(patsubst %,tests/test_%.py,schema segments recorder parts run rollup detector \
	report report_html compare hooks gradients llds probes ranks monitor old_runs)

.DEFAULT_GOAL := help
.PHONY: help demo test lint types imports unit test-lowest audit test-trl-matrix test-swift test-verl test-openrlhf chaos fuzz bench bench-llds bench-peers samples samples-foreign assets screenshot clean

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

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

unit: $(READY) ## the tests, two files at a time but for those that watch a browser's time; ARGS="-k recorder" chooses
ifeq ($(ARGS),)
	@$(BIN)/pytest -n 2 --dist loadfile --ignore-glob 'tests/e2e/test_[!d]*'
	@$(BIN)/pytest tests/e2e --ignore tests/e2e/test_demo.py
else
	@$(BIN)/pytest $(ARGS)
endif

test-lowest: ## what stands on others, tested with the lowest versions that pyproject.toml admits
	@test -d .venv-lowest || $(PYTHON) -m venv .venv-lowest
	@.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check -r constraints.txt
	@.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check $$($(PYTHON) tests/lowest.py dashboard pandas demo) \
		hypothesis pytest pytest-timeout pytest-xdist
	@.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@.venv-lowest/bin/python -m pytest -n 2 --dist loadfile -p no:cacheprovider $(LOWEST)

audit: $(READY) ## known vulnerabilities of what is installed (asks pypi.org)
	@test -x .venv-audit/bin/pip-audit || { $(PYTHON) -m venv .venv-audit && \
		.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit; }
	@.venv-audit/bin/pip-audit --skip-editable --path $$(echo $(VENV)/lib/python*/site-packages)

test-trl-matrix: $(READY) ## the tests of the TRL integration with seven versions of it (20 minutes); prints the table
	@$(BIN)/python tests/integrations/trl_matrix.py $(ARGS)

test-swift: $(READY) ## a real training of ms-swift, in an environment on top of ours
	@test -d .venv-swift || $(PYTHON) -m venv .venv-swift
	@$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib')); print('$(CURDIR)')" \
		> $$(echo .venv-swift/lib/python*/site-packages)/zz_below.pth
	@.venv-swift/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r tests/integrations/swift.txt
	@.venv-swift/bin/python -m pytest -p no:cacheprovider tests/integrations/test_swift.py

test-verl: $(READY) ## the verl and Search-R1 tests with the real packages (1.8 GB; a few minutes)
	@test -d .venv-verl || $(PYTHON) -m venv .venv-verl
	@.venv-verl/bin/python -m pip install --quiet --disable-pip-version-check -r constraints.txt
	@.venv-verl/bin/python -m pip install --quiet --disable-pip-version-check -r tests/integrations/verl.txt
	@.venv-verl/bin/python -m pip install --quiet --disable-pip-version-check --no-deps verl==0.9.1
	@for old in 0.1 0.2; do .venv-verl/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--target .venv-verl/verl-$$old verl==$$old; done
	@.venv-verl/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@.venv-verl/bin/python -m pytest tests/integrations/test_verl.py tests/integrations/test_search_r1.py

test-openrlhf: $(READY) ## the OpenRLHF tests with the real package (needs a C++ compiler; 2 GB)
	@test -d .venv-openrlhf || $(PYTHON) -m venv .venv-openrlhf
	@.venv-openrlhf/bin/python -m pip install --quiet --disable-pip-version-check -r constraints.txt
	@.venv-openrlhf/bin/python -m pip install --quiet --disable-pip-version-check -r tests/integrations/openrlhf.txt
	@.venv-openrlhf/bin/python -m pip install --quiet --disable-pip-version-check --no-deps openrlhf==0.11.2
	@DS_BUILD_OPS=0 .venv-openrlhf/bin/python -m pip install --quiet --disable-pip-version-check \
		--no-build-isolation --no-deps deepspeed==0.19.6
	@PYTHONPATH=. TORCHDYNAMO_DISABLE=1 .venv-openrlhf/bin/python -m pytest tests/integrations/test_openrlhf.py

chaos: $(READY) ## faults and load, the tables of the README (under 10 minutes); ARGS="--only kill full" chooses faults
	@$(BIN)/python benchmarks/chaos.py $(ARGS)
	@test -n "$(ARGS)" || $(BIN)/python benchmarks/load.py

fuzz: $(READY) ## hostile input for readers, importers, command line and dashboard; ARGS="--minutes 60 --only runs"
	@$(BIN)/python tests/fuzz/fuzz_lane.py $(ARGS)

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

FOREIGN := sample_logs/foreign/record.py
ON_TOP = test -d .venv-$(1) || $(PYTHON) -m venv .venv-$(1); \
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib')); print('$(CURDIR)')" \
	> $$(echo .venv-$(1)/lib/python*/site-packages)/zz_below.pth

samples-foreign: $(READY) ## record sample_logs/foreign/ again (after make test-swift test-verl; half an hour)
	@$(call ON_TOP,foreign); $(call ON_TOP,trl-0.19); $(call ON_TOP,trl-0.15)
	@.venv-foreign/bin/python -m pip install --quiet wandb==0.31.0 tensorboard==2.21.0 ipykernel nbclient nbconvert
	@.venv-trl-0.19/bin/python -m pip install --quiet -c constraints.txt trl==0.19.1 transformers==4.57.6 requests
	@.venv-trl-0.15/bin/python -m pip install --quiet -c constraints.txt transformers==4.57.6 requests
	@.venv-trl-0.15/bin/python -m pip install --quiet --no-deps trl==0.15.2 transformers==4.49.0 tokenizers==0.21.4 \
		huggingface_hub==0.36.0
	@.venv-verl/bin/python -m pip install --quiet --no-deps openrlhf==0.11.2 areal==1.0.4 tabulate colorlog
	@.venv-foreign/bin/python $(FOREIGN) trl trl-reuse wandb notebook
	@.venv-trl-0.19/bin/python $(FOREIGN) trl-old
	@.venv-trl-0.15/bin/python $(FOREIGN) trl-0.15
	@.venv-swift/bin/python $(FOREIGN) swift
	@.venv-verl/bin/python $(FOREIGN) verl verl-old openrlhf areal
	@$(BIN)/python $(FOREIGN) nemo-rl prime-rl slime plain

assets: $(READY) ## fetch smaller scripts for the dashboard (needs npm; without them its pages load larger ones)
	@$(BIN)/python dashboard/fetch_assets.py

screenshot: $(READY) ## take the README's pictures again (needs chromium)
	@$(BIN)/python dashboard/screenshot.py

clean: ## remove what was installed and built
	rm -rf $(VENV) $(PEERS) .venv-swift .venv-verl .venv-openrlhf .venv-foreign .venv-trl-0.19 .venv-trl-0.15 build dist *.egg-info

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
