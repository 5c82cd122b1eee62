# `make demo` and `make test` set up what they need in .venv, once.
PYTHON ?= python3
VENV ?= .venv
# torch is installed by version; for another build of it, set TORCH, or install it into $(VENV) first.
TORCH ?= torch==2.13.0
# lite needs no compiler; compiled takes mmcv's own operators, which are faster, and 10 to 20 minutes.
MMCV ?= lite

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
STAMPS := $(VENV)/stamps

.PHONY: demo demo-quick demo-full test test-all test-fast gpu docs lint install doctor clean

demo: $(STAMPS)/package
	$(BIN)/python -W ignore tools/demo.py

demo-quick: $(STAMPS)/package
	$(BIN)/python -W ignore tools/demo.py --quick

demo-full: $(STAMPS)/package
	$(BIN)/python -W ignore tools/demo.py --full

test: $(STAMPS)/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal -m "not full"

test-all: $(STAMPS)/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

test-fast: $(STAMPS)/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal -m "not slow and not full"

# With the environment that is active, PYTHON=... for another: a GPU wants its own build of torch.
gpu:
	$(PYTHON) -m benchmarks.gpu

# Warnings are errors.
docs: $(STAMPS)/dev
	$(BIN)/python -W ignore -m sphinx -b html -q -W --keep-going docs docs/_build

lint: $(STAMPS)/dev
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo

install: $(STAMPS)/package

doctor: $(STAMPS)/package
	$(BIN)/cankd doctor

clean:
	rm -rf $(VENV)

# Every step leaves a stamp when it is complete: an interrupted set-up goes on where it stopped.
$(STAMPS)/venv:
	@echo "[1/4] creating the virtual environment $(VENV)"
	$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS)
	@touch $@

$(STAMPS)/torch: $(STAMPS)/venv
	@echo "[2/4] installing $(TORCH)"
	@$(BIN)/python -c "import torch" 2>/dev/null || $(PIP) install "$(TORCH)"
	@touch $@

$(STAMPS)/mmcv-lite: $(STAMPS)/torch
	@echo "[3/4] installing mmcv-lite 2.1.0"
	@$(PIP) uninstall --yes mmcv 2>/dev/null
	@$(PIP) install "setuptools<81" mmcv-lite==2.1.0
	@rm -f $(STAMPS)/mmcv-compiled
	@touch $@

$(STAMPS)/mmcv-compiled: $(STAMPS)/torch
	@echo "[3/4] installing mmcv 2.1.0: where pip has no built wheel in its cache, it compiles for 10 to 20 minutes on two cores"
	@$(PIP) uninstall --yes mmcv-lite 2>/dev/null
	@$(PIP) install "setuptools<81" wheel ninja psutil
	@MMCV_WITH_OPS=1 PATH="$(abspath $(BIN)):$$PATH" sh tools/with_heartbeat.sh $(PIP) install --no-build-isolation mmcv==2.1.0
	@# A wheel in pip's cache may have been built for another torch.
	@$(BIN)/python -c "import mmcv.ops" 2>/dev/null || MMCV_WITH_OPS=1 \
		PATH="$(abspath $(BIN)):$$PATH" sh tools/with_heartbeat.sh $(PIP) install \
		--no-build-isolation --no-cache-dir --force-reinstall --no-deps mmcv==2.1.0
	@rm -f $(STAMPS)/mmcv-lite
	@touch $@

$(STAMPS)/package: $(STAMPS)/mmcv-$(MMCV) pyproject.toml
	@echo "[4/4] installing cankd-mm with MMDetection, MMSegmentation and MMRazor"
	@$(PIP) install --no-build-isolation -e ".[demo,slurm,tune]" mmengine==0.10.7 mmdet==3.3.0 mmsegmentation==1.2.2
	@touch $@

$(STAMPS)/dev: $(STAMPS)/package
	@echo "installing what tests, lint and docs need"
	@$(PIP) install --no-build-isolation -e ".[dev]"
	@touch $@
