# make demo: a first run, from nothing to a report.  make test: the tests.  make bench: speed, in ratios.  Python 3.10 to 3.13 is all that must be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo bench test test-all test-faults lint format types clean

$(VENV)/.runtime: requirements.txt
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 13) else f"Python 3.10 to 3.13 is needed, this is {v[0]}.{v[1]}: set PYTHON=python3.12, say")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.development: $(VENV)/.runtime requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps 'lightly>=1.5.20' lightly-utils  # its losses, as a check; not its dependencies
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps 'speechbrain>=1.0' hyperpyyaml ruamel.yaml speakerlab wespeaker-unofficial  # margins and encoders, likewise
	$(BIN)/pip install --quiet --disable-pip-version-check 'transformers>=5'  # its WavLM, HuBERT and wav2vec 2.0, likewise; no weights
	touch $@

demo: $(VENV)/.runtime
	$(BIN)/python -m sslsv.prepare_data demo data/demo
	$(BIN)/python -m sslsv.train configs/demo.yml --fresh

$(VENV)/.bench: $(VENV)/.development
	$(BIN)/pip install --quiet --disable-pip-version-check 'audiomentations>=0.43'  # a rival of the benchmark, nothing else
	touch $@

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks --out benchmark.json

test: $(VENV)/.development
	$(BIN)/python -m pytest -q -m "not slow"

test-all: $(VENV)/.development test-faults
	$(BIN)/python -m pytest -q --ignore tests/test_faults.py

test-faults: $(VENV)/.development  # SSLSV_FAULT_REPEATS=5 for more random moments of each
	$(BIN)/python -m pytest -q -s tests/test_faults.py

lint: $(VENV)/.development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy sslsv

format: $(VENV)/.development
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
