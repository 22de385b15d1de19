# make demo   sets everything up and builds the demo data set through Dagster
# make test   sets everything up and runs lint, types and tests (what lacks a browser, nginx, PostgreSQL or clip-retrieval is skipped)
# make test-clip-retrieval   the same for what runs beside clip-retrieval, in an environment of its own (7 GB more)
# make dev    the Dagster UI on localhost (PORT=3000), with the demo's web server behind it
# make build PARTITION=my_photos   everything for one entry of the catalogue, from the terminal
# make index INDEX=mine   one kNN index of the catalogue, of kind faiss: built of its corpus, or checked
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLIP_RETRIEVAL := .venv-clip-retrieval
DEMO_SEED ?= 0
# Tests run in so many processes, a file of tests in one of them.
TEST_PROCESSES ?= 2
PYTEST = -m pytest -n $(TEST_PROCESSES) --dist loadfile
export DAGSTER_HOME := $(CURDIR)
export SD_ASSETS_DEMO := $(CURDIR)/.demo/world-$(DEMO_SEED)

PORT ?= 3000
.PHONY: setup setup-clip-retrieval demo dev build index test test-clip-retrieval lint train-demo

setup: $(VENV)/.installed
setup-clip-retrieval: $(CLIP_RETRIEVAL)/.installed

$(VENV)/.installed: EXTRAS := dev,consumers,deploy,ray
$(VENV)/.installed: CONSTRAINTS := constraints.txt
$(VENV)/.installed: pyproject.toml constraints.txt
$(CLIP_RETRIEVAL)/.installed: EXTRAS := clip-retrieval,dev
$(CLIP_RETRIEVAL)/.installed: CONSTRAINTS := constraints-clip-retrieval.txt
$(CLIP_RETRIEVAL)/.installed: pyproject.toml constraints-clip-retrieval.txt

%/.installed:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sd_assets needs Python 3.11 or newer; this is " + sys.version.split()[0] + ": make PYTHON=python3.11 ...")'
	@echo "Setting up $* (about 7 GB with torch; some minutes, once)"
	@test -x $*/bin/python || $(PYTHON) -m venv $*
	@$*/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@$*/bin/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[$(EXTRAS)]'
	@touch $@

demo: setup
	@$(BIN)/python -m sd_assets.demo run --seed $(DEMO_SEED)

dev: setup
	@$(BIN)/python -m sd_assets.demo dev --seed $(DEMO_SEED) --port $(PORT)

build: setup
	@$(BIN)/python -m sd_assets build $(PARTITION)

index: setup
	@$(BIN)/python -m sd_assets index $(INDEX)

test: setup lint
	$(BIN)/python $(PYTEST)

# clip-retrieval brings old versions of much; these parts of ours are to work beside it.
test-clip-retrieval: setup-clip-retrieval
	$(CLIP_RETRIEVAL)/bin/dg check defs --use-active-venv
	$(CLIP_RETRIEVAL)/bin/python $(PYTEST) sd_assets_tests/retrieval sd_assets_tests/storage

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The demo's CLIP and BLIP are in the repository; this makes them anew (two hours on two cores).
train-demo: setup
	$(BIN)/python -m sd_assets.demo.train all
