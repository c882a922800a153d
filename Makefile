# make demo: a first run, from installation to report.  make test: the tests.  make docs: the documentation site.
# make bench: speed comparisons, as ratios.  The only requirement is Python 3.10 to 3.13.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python deploy/install.py
# PyTorch without CUDA: make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
CPU := 0.5 GB to download, 2.1 GB on disk
ifeq ($(TORCH_INDEX),)
SIZES := 3.4 GB to download, 6.7 GB on disk (without CUDA, with make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu: $(CPU))
else
SIZES := $(CPU), if $(TORCH_INDEX) has PyTorch without CUDA
endif

.PHONY: demo bench docs test test-all test-faults lint format types clean

$(VENV)/.runtime: requirements.txt setup.py
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 13) else f"Python 3.10 to 3.13 is needed, but this is {v[0]}.{v[1]}; set PYTHON, for example PYTHON=python3.12")'
	@echo "installing PyTorch, Ray and the other dependencies of sslsv into $(VENV): $(SIZES)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip
	$(if $(TORCH_INDEX),$(INSTALL) --index-url $(TORCH_INDEX) $$(grep -oE '^torch[^ ]+' requirements.txt))
	$(INSTALL) -e .
	touch $@

$(VENV)/.development: $(VENV)/.runtime requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps 'lightly>=1.5.20' lightly-utils  # tests compare with its losses; without its dependencies
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps 'speechbrain>=1.0' hyperpyyaml ruamel.yaml speakerlab wespeaker-unofficial  # tests compare with their margins and encoders
	$(BIN)/pip install --quiet --disable-pip-version-check 'transformers>=5'  # tests compare with its WavLM, HuBERT and wav2vec 2.0; no weights
	touch $@

demo: $(VENV)/.runtime
	$(BIN)/sslsv prepare_data demo data/demo
	@if [ -e runs/demo/summary.json ]; then \
		echo "already trained: see runs/demo/report.html; to train again (the old run is renamed and kept): $(BIN)/sslsv train configs/demo.yml --fresh"; \
	else echo $(BIN)/sslsv train configs/demo.yml; $(BIN)/sslsv train configs/demo.yml; fi

$(VENV)/.bench: $(VENV)/.development
	$(BIN)/pip install --quiet --disable-pip-version-check 'audiomentations>=0.43' faiss-cpu  # only benchmarks compare with these
	touch $@

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks --out benchmark.json

docs: $(VENV)/.development  # writes site/index.html; `.venv/bin/python -m mkdocs serve` shows it live, with search
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs --quiet build --strict

test: $(VENV)/.development
	$(BIN)/python -m pytest -q -m "not slow"

test-all: $(VENV)/.development test-faults
	$(BIN)/python -m pytest -q --ignore tests/test_faults.py

test-faults: $(VENV)/.development  # SSLSV_FAULT_REPEATS=5 repeats each fault at more random moments
	$(BIN)/python -m pytest -q -s tests/test_faults.py

lint: $(VENV)/.development docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy sslsv
	$(BIN)/mypy --explicit-package-bases benchmarks

format: $(VENV)/.development
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build site
